"""Calls over HTTP on bases of several families, by an engine that writes as they do."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tokenizers import Tokenizer

from service.base.description import BaseDescription, describe
from service.rendering.renderer import Renderer
from service.settings import BUNDLED_BASE
from tests.fakes.engine import FakeEngine
from tests.integration.generating import BASE, CHAT, HELLO, events_of
from tests.properties.test_tool_calls import in_tags
from tests.unit.rendering import templates

pytestmark = [pytest.mark.usefixtures("acme"), pytest.mark.sqlite("texts are in no database")]


class Family(msgspec.Struct, frozen=True):
    """How a family of bases calls functions."""

    template: str
    said: str
    """A text, and two calls: of Bern, and of what looks like a mark."""
    marks: list[str]
    """Its special tokens."""


FIRST, SECOND = '{"city": "Bern"}', '{"city": "[TOOL_CALLS] é </tool_call>"}'
FAMILIES = {
    "mistral_json": Family(
        templates.MISTRAL_TOOLS,
        f'Let me see.[TOOL_CALLS] [{{"name": "Weather", "arguments": {FIRST}}}, '
        f'{{"name": "Weather", "arguments": {SECOND}}}]',
        ["[TOOL_CALLS]"],
    ),
    "mistral_args": Family(
        templates.MISTRAL_CALL_ID,
        f"Let me see.[TOOL_CALLS]Weather[CALL_ID]abc123XYZ[ARGS]{FIRST}"
        f"[TOOL_CALLS]Weather[ARGS]{SECOND}",
        ["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
    ),
    "qwen3_coder": Family(
        templates.QWEN3_CODER,
        "Let me see.\n" + "\n".join(in_tags("Weather", json.loads(one)) for one in (FIRST, SECOND)),
        ["<tool_call>", "</tool_call>"],
    ),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "Weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def base(tmp_path: Path, family: Family) -> BaseDescription:
    """The bundled one, as if it were of that family."""
    folder = tmp_path / BASE
    shutil.copytree(BUNDLED_BASE, folder, copy_function=os.symlink)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(family.marks)
    (folder / "tokenizer.json").unlink()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(family.template)
    return describe(str(folder))


@pytest.fixture
def engine(family: Family) -> FakeEngine:
    return FakeEngine(answer=lambda request, index: family.said)


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": BASE, "messages": HELLO, "tools": [TOOL], "max_tokens": 100, **fields}


async def test_calls_are_read_whole_and_streamed(
    acme: httpx.AsyncClient, engine: FakeEngine, base: BaseDescription, family: Family
) -> None:
    [choice] = (await acme.post(CHAT, json=ask())).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "Let me see.")
    whole = [call["function"] for call in choice["message"]["tool_calls"]]
    assert [json.loads(one["arguments"]) for one in whole] == [
        json.loads(FIRST),
        json.loads(SECOND),
    ]
    streamed: list[dict[str, str]] = []
    for event in events_of(await acme.post(CHAT, json=ask(stream=True))):
        for call in event["choices"][0]["delta"].get("tool_calls", []):
            if "id" in call:
                streamed.append({"name": call["function"]["name"], "arguments": ""})
            streamed[call["index"]]["arguments"] += call["function"]["arguments"]
    assert streamed == whole
    tokenizer = Renderer(base).tokenizer
    marks = {tokenizer.token_to_id(mark) for mark in family.marks}
    assert {*engine.requests[0].sampling.shown} == marks


async def test_calls_go_back_into_the_prompt_with_their_answers(
    acme: httpx.AsyncClient, engine: FakeEngine, base: BaseDescription
) -> None:
    message = (await acme.post(CHAT, json=ask())).json()["choices"][0]["message"]
    answers = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"sunny {place}"}
        for place, call in enumerate(message["tool_calls"])
    ]
    again = await acme.post(CHAT, json=ask(messages=[*HELLO, message, *answers]))
    assert again.status_code == 200, again.text
    prompt = Renderer(base).tokenizer.decode(engine.requests[-1].prompt, skip_special_tokens=False)
    assert "Bern" in prompt
    assert prompt.index("sunny 0") < prompt.index("sunny 1")


async def test_a_forced_call_is_bound_by_a_grammar_that_names_the_tokens(
    acme: httpx.AsyncClient, engine: FakeEngine, base: BaseDescription, family: Family
) -> None:
    await acme.post(CHAT, json=ask(tool_choice="required"))
    structure = engine.requests[0].sampling.structure
    assert structure is not None
    tokenizer = Renderer(base).tokenizer
    assert all(f"<[{tokenizer.token_to_id(mark)}]>" in structure for mark in family.marks)


async def test_nothing_is_shown_where_nothing_may_be_called(
    acme: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await acme.post(CHAT, json=ask(tool_choice="none"))
    await acme.post(CHAT, json={"model": BASE, "messages": HELLO})
    assert [request.sampling.shown for request in engine.requests] == [(), ()]
