"""What was trained is what is served: the same tokens before and within each answer."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.datasets.parsing import Row, parse
from service.rendering.examples import (
    ChatExample,
    CompletionExample,
    Example,
    Message,
    TextExample,
)
from service.rendering.renderer import Renderer
from service.rendering.template import RenderingError
from tests import strategies
from tests.unit.rendering import templates
from tests.unit.rendering.bases import base_of, byte_level, metaspace

CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
LLAMA3_TOKENS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make(kind: str, folder: Path) -> Renderer:
    if kind == "chatml":
        base = base_of(folder, byte_level(CHATML_TOKENS), templates.CHATML, eos_token="<|im_end|>")
    elif kind == "llama3":
        tokenizer = byte_level(LLAMA3_TOKENS, "<|begin|>")
        names = {"bos_token": "<|begin|>", "eos_token": "<|eot_id|>"}
        base = base_of(folder, tokenizer, templates.LLAMA3, **names)
    elif kind == "mistral":
        tokenizer = metaspace(["<s>", "</s>"], "<s>")
        base = base_of(folder, tokenizer, templates.MISTRAL, bos_token="<s>", eos_token="</s>")
    else:
        tokenizer = byte_level(["</s>"], "<s>")
        base = base_of(folder, tokenizer, None, bos_token="<s>", eos_token="</s>")
    return Renderer(base)


@pytest.fixture(scope="module", params=["chatml", "llama3", "mistral", "none"])
def renderer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return make(request.param, tmp_path_factory.mktemp("base"))


@given(example=strategies.chat_examples)
def test_the_prompt_of_every_trained_answer_is_the_prompt_in_serving(
    renderer: Renderer, example: ChatExample
) -> None:
    rendered = renderer.example(example, None)
    for index, message in enumerate(example.messages):
        if message.role == "assistant" and message.weight != 0:
            prompt = renderer.prompt(example.messages[:index])
            assert rendered.input_ids[: len(prompt)] == prompt
            assert rendered.loss_mask[len(prompt)] == 1
            assert rendered.loss_mask[len(prompt) - 1] == 0


@given(example=strategies.chat_examples)
def test_each_trained_answer_ends_with_the_token_at_which_serving_stops(
    renderer: Renderer, example: ChatExample
) -> None:
    rendered = renderer.example(example, None)
    pairs = list(zip(rendered.input_ids, rendered.loss_mask, strict=True))
    eos = renderer.tokenizer.token_to_id(renderer.base.special_tokens["eos_token"])
    following = [*rendered.loss_mask[1:], 0]
    ends = [i for i, (_, bit) in enumerate(pairs) if bit and not following[i]]
    trained = [m for m in example.messages if m.role == "assistant" and m.weight != 0]
    assert [pairs[i][0] for i in ends] == [eos] * len(trained)


@given(example=strategies.examples)
def test_ids_and_mask_are_of_one_length_also_when_cut(renderer: Renderer, example: Example) -> None:
    whole = renderer.example(example, None)
    assert len(whole.input_ids) == len(whole.loss_mask)
    assert set(whole.loss_mask) <= {0, 1}
    assert not whole.truncated
    cut = renderer.example(example, 7)
    assert (cut.input_ids, cut.loss_mask) == (whole.input_ids[:7], whole.loss_mask[:7])
    assert cut.truncated == (len(whole.input_ids) > 7)


@given(example=strategies.completion_examples)
def test_a_raw_prompt_in_training_is_the_raw_prompt_in_serving(
    renderer: Renderer, example: CompletionExample
) -> None:
    rendered = renderer.example(example, None)
    prompt = renderer.raw(example.prompt)
    assert rendered.input_ids[: len(prompt)] == prompt
    assert rendered.loss_mask == [0] * len(prompt) + [1] * (len(rendered.loss_mask) - len(prompt))


@given(text=strategies.plain_text)
def test_raw_text_begins_with_at_most_one_bos(renderer: Renderer, text: str) -> None:
    bos = renderer.base.special_tokens.get("bos_token")
    if bos is None:
        return
    token = renderer.tokenizer.token_to_id(bos)
    assert renderer.raw(text)[:2].count(token) == 1
    assert renderer.raw(bos + text)[:2].count(token) == 1
    assert renderer.example(TextExample(bos + text), None).loss_mask[0] == 0


@given(lines=strategies.file_lines)
def test_whatever_parses_is_rendered_or_refused(renderer: Renderer, lines: list[bytes]) -> None:
    for row in parse(lines):
        if isinstance(row, Row):
            with contextlib.suppress(RenderingError):
                renderer.example(row.example, None)


@given(
    tools=st.lists(st.dictionaries(st.text(max_size=5), strategies.json_values), max_size=2),
    arguments=strategies.json_values.map(lambda value: msgspec.json.encode(value).decode())
    | st.text(max_size=5),
)
def test_any_tools_and_arguments_are_rendered_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tools: list[dict[str, Any]], arguments: str
) -> None:
    renderer = _tool_renderer(tmp_path_factory)
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [Message("user", "x"), Message("assistant", tool_calls=[call])]
    with contextlib.suppress(RenderingError):
        renderer.example(ChatExample(messages, tools), None)


_made: list[Renderer] = []


def _tool_renderer(folders: pytest.TempPathFactory) -> Renderer:
    if not _made:
        _made.append(make("llama3", folders.mktemp("base")))
    return _made[0]
