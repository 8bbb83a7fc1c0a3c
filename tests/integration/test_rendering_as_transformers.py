"""Rendering without transformers gives what `apply_chat_template` gives."""

from pathlib import Path
from typing import Any

import pytest

from service.base.description import BaseDescription, describe
from service.rendering.examples import ChatExample, Message
from service.rendering.renderer import Renderer
from service.settings import BUNDLED_BASE
from tests.unit.rendering import templates
from tests.unit.rendering.bases import base_of, byte_level, metaspace

pytestmark = pytest.mark.torch

CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
TOOL = {"type": "function", "function": {"name": "add", "description": "<a> & 'é'"}}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": [1, "é"]}}}

SHORT = [Message("user", "What is the capital of <France>?")]
LONG = [
    *SHORT,
    Message("assistant", "Paris.\n\nIt is 'naïve' 日本 🙂"),
    Message("user", "  And there?  "),
]
WITH_SYSTEM = [Message("system", "You are terse."), *LONG]
WITH_TOOLS = [
    *SHORT,
    Message("assistant", tool_calls=[CALL]),
    Message("tool", "3", tool_call_id="c"),
]


def of_family(family: str, folder: Path) -> BaseDescription:
    if family == "llama3":
        special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        names = {"bos_token": "<|begin|>", "eos_token": "<|eot_id|>"}
        tokenizer = byte_level(special, "<|begin|>", modern=True)
        return base_of(folder, tokenizer, templates.LLAMA3, **names)
    if family == "mistral":
        names = {"bos_token": "<s>", "eos_token": "</s>"}
        return base_of(folder, metaspace(["<s>", "</s>"], "<s>"), templates.MISTRAL, **names)
    template = {"qwen2.5": templates.QWEN25, "qwen3": templates.QWEN3}[family]
    tokenizer = byte_level(CHATML_TOKENS, modern=True)
    return base_of(folder, tokenizer, template, eos_token="<|im_end|>")


def theirs(
    base: BaseDescription,
    messages: list[Message],
    tools: list[dict[str, Any]] | None,
    *,
    prompt: bool,
) -> list[int]:
    from transformers import AutoTokenizer

    keys = ("role", "content", "tool_calls", "tool_call_id")
    plain = [{key: getattr(message, key) for key in keys} for message in messages]
    ids: list[int] = AutoTokenizer.from_pretrained(base.path).apply_chat_template(
        plain, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=False
    )
    return ids


@pytest.mark.parametrize(
    ("family", "messages", "tools"),
    [
        ("llama3", SHORT, None),
        ("llama3", WITH_SYSTEM, None),
        ("llama3", WITH_TOOLS, [TOOL]),
        ("qwen2.5", SHORT, None),
        ("qwen2.5", WITH_SYSTEM, None),
        ("qwen2.5", WITH_TOOLS, [TOOL]),
        ("qwen3", LONG, None),
        ("mistral", LONG, None),
    ],
)
def test_prompts_and_examples_equal_apply_chat_template(
    tmp_path: Path, family: str, messages: list[Message], tools: list[dict[str, Any]] | None
) -> None:
    base = of_family(family, tmp_path)
    renderer = Renderer(base)
    assert renderer.prompt(messages, tools) == theirs(base, messages, tools, prompt=True)
    if family != "qwen3":
        whole = [*messages, Message("assistant", "Four.")]
        rendered = renderer.example(ChatExample(whole, tools), None)
        assert rendered.input_ids == theirs(base, whole, tools, prompt=False)


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        (SHORT, None),
        (LONG, None),
        (WITH_SYSTEM, None),
        (WITH_TOOLS, [TOOL]),
        ([WITH_SYSTEM[0], *WITH_TOOLS], [TOOL, TOOL]),
    ],
)
def test_the_bundled_base_renders_as_in_transformers(
    messages: list[Message], tools: list[dict[str, Any]] | None
) -> None:
    from transformers import AutoTokenizer

    base = describe(str(BUNDLED_BASE))
    renderer = Renderer(base)
    assert renderer.prompt(messages, tools) == theirs(base, messages, tools, prompt=True)
    whole = [*messages, Message("assistant", "Four.")]
    rendered = renderer.example(ChatExample(whole, tools), None)
    assert rendered.input_ids == theirs(base, whole, tools, prompt=False)
    text = "Four. <|im_end|> é"
    assert renderer.raw(text) == AutoTokenizer.from_pretrained(base.path)(text)["input_ids"]
