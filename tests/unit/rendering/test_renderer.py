from pathlib import Path

import pytest
from tokenizers import Tokenizer

from service.rendering.examples import ChatExample, CompletionExample, Message, TextExample
from service.rendering.renderer import Renderer
from service.rendering.template import RenderingError
from tests.unit.rendering import templates
from tests.unit.rendering.bases import base_of, byte_level

CHATML_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
ASK, ANSWER = Message("user", "What is 2+2?"), Message("assistant", "Four.")


def chatml(folder: Path, template: str = templates.CHATML) -> Renderer:
    return Renderer(base_of(folder, byte_level(CHATML_TOKENS), template, eos_token="<|im_end|>"))


def bare(folder: Path, **names: object) -> Renderer:
    """A base without a chat template, whose tokenizer puts a BOS."""
    given = {"bos_token": "<s>", "eos_token": "</s>", **names}
    return Renderer(base_of(folder, byte_level(["</s>"], "<s>"), None, **given))


def trained(renderer: Renderer, example: ChatExample | CompletionExample | TextExample) -> str:
    rendered = renderer.example(example, None)
    ids = [i for i, bit in zip(rendered.input_ids, rendered.loss_mask, strict=True) if bit]
    text: str = renderer.tokenizer.decode(ids, skip_special_tokens=False)
    return text


def shown(renderer: Renderer, ids: list[int]) -> str:
    text: str = renderer.tokenizer.decode(ids, skip_special_tokens=False)
    return text


class TestLossMask:
    def test_the_answer_and_its_end_of_turn_token_are_trained_and_nothing_else(
        self, tmp_path: Path
    ) -> None:
        assert trained(chatml(tmp_path), ChatExample([ASK, ANSWER])) == "Four.<|im_end|>"

    def test_an_answer_of_weight_0_is_not_trained(self, tmp_path: Path) -> None:
        silent = Message("assistant", "Ask me another.", weight=0)
        example = ChatExample([ASK, silent, ASK, ANSWER])
        assert trained(chatml(tmp_path), example) == "Four.<|im_end|>"

    def test_a_completion_is_trained_with_an_end(self, tmp_path: Path) -> None:
        assert trained(bare(tmp_path), CompletionExample("one two", " three")) == " three</s>"

    def test_a_text_is_trained_whole_but_for_its_bos(self, tmp_path: Path) -> None:
        rendered = bare(tmp_path).example(TextExample("one two"), None)
        assert rendered.loss_mask == [0] + [1] * (len(rendered.input_ids) - 1)

    def test_an_answer_without_an_end_of_turn_in_the_template_gets_one(
        self, tmp_path: Path
    ) -> None:
        plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        prompted = plain + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        example = ChatExample([ASK, ANSWER])
        assert trained(chatml(tmp_path, prompted), example) == "Four.\n<|im_end|>"

    def test_what_is_cut_off_may_leave_nothing_to_learn(self, tmp_path: Path) -> None:
        rendered = chatml(tmp_path).example(ChatExample([ASK, ANSWER]), 5)
        assert (rendered.truncated, any(rendered.loss_mask)) == (True, False)

    def test_calls_of_tools_are_trained(self, tmp_path: Path) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        example = ChatExample([ASK, Message("assistant", tool_calls=[call])])
        renderer = chatml(tmp_path, templates.QWEN25)
        assert '{"name": "f", "arguments": {"a": 1}}' in trained(renderer, example)


class TestBoundaries:
    @pytest.mark.parametrize("content", ["\nFour.", "\n\n  Four.", " Four.", "\t", "\n"])
    def test_an_answer_that_begins_with_white_space_leaves_the_prompt_alone(
        self, tmp_path: Path, content: str
    ) -> None:
        template = templates.CHATML.replace("assistant\\n", "assistant\\n\\n")
        renderer = chatml(tmp_path, template.replace("['role'] + '\\n'", "['role'] + '\\n\\n'"))
        rendered = renderer.example(ChatExample([ASK, Message("assistant", content)]), None)
        prompt = renderer.prompt([ASK])
        assert rendered.input_ids[: len(prompt)] == prompt
        assert rendered.loss_mask.index(1) == len(prompt)

    def test_a_template_that_hides_earlier_thoughts_is_refused_for_the_turn_it_changes(
        self, tmp_path: Path
    ) -> None:
        renderer = chatml(tmp_path, templates.QWEN3)
        with pytest.raises(RenderingError, match=r"messages\[1\].*weight 0"):
            renderer.example(ChatExample([ASK, ANSWER, ASK, ANSWER]), None)
        silent = Message("assistant", "Three.", weight=0)
        example = ChatExample([ASK, silent, ASK, ANSWER])
        assert trained(renderer, example) == "<think>\n\n</think>\n\nFour.<|im_end|>"

    def test_such_a_template_still_serves_conversations(self, tmp_path: Path) -> None:
        renderer = chatml(tmp_path, templates.QWEN3)
        assert shown(renderer, renderer.prompt([ASK, ANSWER, ASK])).count("<think>") == 0


class TestBos:
    def test_a_base_without_one_gets_none(self, tmp_path: Path) -> None:
        renderer = chatml(tmp_path)
        assert shown(renderer, renderer.raw("hello")) == "hello"

    def test_the_tokenizers_own_bos_comes_once(self, tmp_path: Path) -> None:
        renderer = bare(tmp_path)
        assert shown(renderer, renderer.raw("hello")) == "<s>hello"
        assert shown(renderer, renderer.raw("<s>hello")) == "<s>hello"

    def test_the_config_overrules_the_tokenizer(self, tmp_path: Path) -> None:
        renderer = bare(tmp_path, add_bos_token=False)
        assert shown(renderer, renderer.raw("hello")) == "hello"
        plain = base_of(
            tmp_path, byte_level(["<s>", "</s>"]), None, bos_token="<s>", add_bos_token=True
        )
        assert shown(Renderer(plain), Renderer(plain).raw("hello")) == "<s>hello"

    def test_a_template_writes_its_own_or_none(self, tmp_path: Path) -> None:
        tokenizer = byte_level(["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<s>")
        names = {"bos_token": "<s>", "eos_token": "<|eot_id|>"}
        writes = Renderer(base_of(tmp_path, tokenizer, templates.LLAMA3, **names))
        assert shown(writes, writes.prompt([ASK])).count("<s>") == 1
        silent = Renderer(base_of(tmp_path, tokenizer, templates.CHATML, **names))
        assert shown(silent, silent.prompt([ASK])).count("<s>") == 0


class TestBaseWithoutTemplate:
    def test_an_instruction_takes_the_instruction_form(self, tmp_path: Path) -> None:
        renderer = bare(tmp_path)
        expected = "<s>### Instruction:\nSay hello\n\n### Response:\n"
        assert shown(renderer, renderer.instruction("Say hello")) == expected

    def test_a_conversation_is_a_row_of_instructions(self, tmp_path: Path) -> None:
        renderer = bare(tmp_path)
        system = Message("system", "Be brief.")
        example = ChatExample([system, ASK, ANSWER, ASK, ANSWER])
        whole = shown(renderer, renderer.example(example, None).input_ids)
        turn = "### Instruction:\nWhat is 2+2?\n\n### Response:\nFour.</s>\n\n"
        assert whole == "<s>Be brief.\n\n" + turn + turn
        assert trained(renderer, example) == "Four.</s>Four.</s>"

    def test_a_tool_turn_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RenderingError, match="no role tool"):
            bare(tmp_path).prompt([Message("tool", "x")])


class TestTemplates:
    def test_a_refusal_of_the_template_names_the_messages(self, tmp_path: Path) -> None:
        renderer = chatml(tmp_path, templates.MISTRAL)
        with pytest.raises(RenderingError, match="roles must alternate") as caught:
            renderer.prompt([ASK, ASK])
        assert (caught.value.status, caught.value.param) == (400, "messages")

    def test_a_template_that_cannot_take_a_null_content_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(RenderingError):
            chatml(tmp_path).prompt([Message("user", None)])

    def test_developers_are_systems_where_the_template_knows_only_those(
        self, tmp_path: Path
    ) -> None:
        renderer = chatml(tmp_path)
        developer, system = Message("developer", "Be brief."), Message("system", "Be brief.")
        assert renderer.prompt([developer, ASK]) == renderer.prompt([system, ASK])
        knowing = chatml(tmp_path, "{# developer #}" + templates.CHATML)
        assert "developer" in shown(knowing, knowing.prompt([developer, ASK]))

    def test_a_template_reaches_nothing_of_python(self, tmp_path: Path) -> None:
        renderer = chatml(tmp_path, "{{ messages.__class__.__mro__ }}")
        with pytest.raises(RenderingError, match="unsafe"):
            renderer.prompt([ASK])

    def test_of_several_templates_the_default_is_taken(self, tmp_path: Path) -> None:
        tokenizer: Tokenizer = byte_level(CHATML_TOKENS)
        several = [
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": templates.CHATML},
        ]
        base = base_of(tmp_path, tokenizer, None, chat_template=several, eos_token="<|im_end|>")
        assert base.chat_template == templates.CHATML
