"""How a base calls functions is read off its own template; TRL ships those of many families."""

import importlib.util
import re
from pathlib import Path

import pytest

from service.base.description import describe
from service.rendering.examples import Message
from service.rendering.renderer import Renderer
from service.rendering.template import INSTRUCTION_TEMPLATE, ChatTemplate
from service.rendering.tool_format import CallTokens, tool_format
from service.settings import BUNDLED_BASE
from tests.unit.rendering import templates
from tests.unit.rendering.bases import base_of, metaspace

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("qwen2_5", "hermes"),
        ("qwen3", "hermes"),
        ("llama3_1", "llama3_json"),
        ("llama3_2", "llama3_json"),
        ("llama3", None),
        ("gptoss", None),
        ("qwen3_6", "qwen3_coder"),
        ("nemotron_3_nano", "qwen3_coder"),
        ("deepseekv3", None),
    ],
)
def test_a_familys_own_template_tells(family: str, form: str | None) -> None:
    trl = importlib.util.find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("trl is not installed")
    source = (Path(trl.origin).parent / "chat_templates" / f"{family}.jinja").read_text()
    assert tool_format(ChatTemplate(source, NAMES)) == form


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (templates.MISTRAL_TOOLS, "mistral_json"),
        (templates.MISTRAL_TOOLS.replace('"[TOOL_CALLS] ["', '"[TOOL_CALLS]["'), "mistral_json"),
        (templates.MISTRAL_ARGS, "mistral_args"),
        (templates.MISTRAL_CALL_ID, "mistral_args"),
        (templates.QWEN3_CODER, "qwen3_coder"),
    ],
)
def test_other_families_templates_tell(source: str, form: str) -> None:
    assert tool_format(ChatTemplate(source, NAMES)) == form


def test_marks_are_the_tokens_that_the_base_has_for_them(tmp_path: Path) -> None:
    tokenizer = metaspace(["<s>", "</s>", "[TOOL_CALLS]", "[ARGS]"], "<s>")
    tokenizer.add_tokens(["<think>"])
    made = Renderer(base_of(tmp_path, tokenizer, templates.MISTRAL_CALL_ID))
    marks = {mark: tokenizer.token_to_id(mark) for mark in ("[TOOL_CALLS]", "[ARGS]")}
    assert made.call_tokens == CallTokens(marks, [tokenizer.token_to_id("<think>")])
    assert Renderer(describe(str(BUNDLED_BASE))).call_tokens == CallTokens()


def test_a_template_that_counts_ids_gets_some_that_it_takes() -> None:
    template = ChatTemplate(templates.MISTRAL_TOOLS, NAMES)
    ids = ["call_0a1b2c3d4e5f", "1", "abcdefghi"]
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": one, "type": "function", "function": function} for one in ids]
    answers = [Message("tool", "1", tool_call_id=one) for one in ids]
    messages = [Message("user", "x"), Message("assistant", tool_calls=calls), *answers]
    text = template.render(messages, generation_prompt=True)
    called = re.findall(r'"id": "(\w{9})"', text)
    assert re.findall(r'"call_id": "(\w{9})"', text) == called
    assert len(set(called)) == len(ids)
    assert called[-1] == "abcdefghi"


def test_arguments_may_come_first() -> None:
    source = (
        "{{ tools }}{% for m in messages %}{% for call in m.tool_calls or [] %}<tool_call>"
        '{ "arguments": {{ call.function.arguments | tojson }}, "name": "{{ call.function.name }}"}'
        "</tool_call>{% endfor %}{% endfor %}"
    )
    assert tool_format(ChatTemplate(source, NAMES)) == "hermes"


@pytest.mark.parametrize(
    "source", [templates.CHATML, templates.MISTRAL, templates.QWEN25, INSTRUCTION_TEMPLATE]
)
def test_a_template_that_shows_no_tools_has_none(source: str) -> None:
    assert tool_format(ChatTemplate(source, NAMES)) is None


def test_the_bundled_bases_is_hermes() -> None:
    assert Renderer(describe(str(BUNDLED_BASE))).tool_format == "hermes"


def test_a_clients_order_of_a_functions_members_changes_no_prompt() -> None:
    template = ChatTemplate("{{ tools | tojson }}", NAMES)
    members = {"name": "f", "description": "d", "parameters": {"b": 1, "a": 2}, "x": 1}
    shuffled = {"strict": True, "x": 1, "parameters": {"b": 1, "a": 2}, "description": "d"}
    wanted = [{"type": "function", "function": members}]
    given = [{"type": "function", "function": {**shuffled, "name": "f"}}]
    assert template.render([], given, generation_prompt=True) == template.render(
        [], wanted, generation_prompt=True
    )
    assert template.render([], [{"name": "f"}], generation_prompt=True) == '[{"name": "f"}]'
