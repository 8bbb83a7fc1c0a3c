"""Answers byte for byte, and whole ones equal to streamed ones."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.adapters.service import Target
from service.database import Database
from service.http.tenant_labels import TenantLabels
from service.serving import chat_answers, completion_answers, generate_answers
from service.serving.engine import Piece, TokenLogprob
from service.serving.generation import Caller, Generation
from service.serving.legacy_logprobs import LegacyLogprobs
from service.serving.metrics import GenerationMetrics
from service.tenants.usage_meter import UsageMeter
from tests.builders import an_allowance

HEAD = '"created":5,"model":"m"'
DETAILS = (
    '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":'
    '{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,'
    '"rejected_prediction_tokens":0}'
)
USAGE = f'{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,{DETAILS}}}'
HELLO = [
    Piece(index=0, text="hi", tokens=1),
    Piece(index=0, text="", tokens=2, finish_reason="stop"),
]


def generation(pieces: list[Piece]) -> Generation:
    async def source() -> AsyncIterator[Piece]:
        for piece in pieces:
            yield piece

    run = Generation(
        generation_id="id-1",
        caller=Caller("acme", "key_1", 1.0, an_allowance()),
        target=Target(revision=None, model="m", format="chat", created=0),
        fingerprint="fp_0",
        prompt_tokens=3,
        choices=len({piece.index for piece in pieces}),
        source=source(),
        metrics=GenerationMetrics(CollectorRegistry(), TenantLabels()),
        meter=UsageMeter(Database("sqlite+aiosqlite://")),
    )
    run.created = 5
    return run


async def text_of(events: AsyncIterator[bytes]) -> str:
    return b"".join([event async for event in events]).decode()


def objects_of(stream: str) -> list[dict[str, Any]]:
    *events, done, end = stream.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_a_chat_completion_to_the_byte() -> None:
    run = generation(HELLO)
    made = chat_answers.completion(run, await run.collect())
    assert msgspec.json.encode(made).decode() == (
        f'{{"id":"id-1","object":"chat.completion",{HEAD},"choices":[{{"index":0,"message":'
        '{"role":"assistant","content":"hi","refusal":null},"logprobs":null,'
        f'"finish_reason":"stop"}}],"usage":{USAGE},"service_tier":"default",'
        '"system_fingerprint":"fp_0"}'
    )


async def test_a_chat_stream_to_the_byte() -> None:
    def chunk(choices: str, tail: str = "") -> str:
        return (
            f'data: {{"id":"id-1","object":"chat.completion.chunk",{HEAD},'
            f'"service_tier":"default","system_fingerprint":"fp_0","choices":[{choices}]{tail}}}'
            "\n\n"
        )

    def choice(delta: str, reason: str = "null") -> str:
        return f'{{"index":0,"delta":{{{delta}}},"logprobs":null,"finish_reason":{reason}}}'

    choices = [
        choice('"role":"assistant","content":"","refusal":null'),
        choice('"content":"hi"'),
        choice("", '"stop"'),
    ]
    plain = await text_of(chat_answers.events(generation(HELLO), False))
    assert plain == "".join(map(chunk, choices)) + "data: [DONE]\n\n"
    with_usage = await text_of(chat_answers.events(generation(HELLO), True))
    nulls = "".join(chunk(each, ',"usage":null') for each in choices)
    assert with_usage == nulls + chunk("", f',"usage":{USAGE}') + "data: [DONE]\n\n"


async def test_a_completion_stream_to_the_byte() -> None:
    def chunk(choices: str) -> str:
        return (
            f'data: {{"id":"id-1","object":"text_completion",{HEAD},"system_fingerprint":"fp_0",'
            f'"choices":[{choices}]}}\n\n'
        )

    assert await text_of(completion_answers.events(generation(HELLO), False)) == (
        chunk('{"text":"hi","index":0,"logprobs":null,"finish_reason":null}')
        + chunk('{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}')
        + "data: [DONE]\n\n"
    )


async def test_a_generate_stream_to_the_byte() -> None:
    def piece(rest: str) -> str:
        return f'data: {{"id":"id-1","tenant":"acme","model":"m",{rest}}}\n\n'

    assert await text_of(generate_answers.events(generation(HELLO))) == (
        piece('"text":"hi"')
        + piece(f'"text":"","finish_reason":"stop","usage":{USAGE}')
        + "data: [DONE]\n\n"
    )


@st.composite
def answers(draw: st.DrawFn) -> list[Piece]:
    """Pieces of a few choices, interleaved."""
    texts = draw(st.lists(st.lists(st.text(max_size=3), max_size=4), min_size=1, max_size=3))
    choices = [
        [Piece(index=i, text=text, tokens=k) for k, text in enumerate(parts, 1)]
        + [Piece(index=i, text="", tokens=len(parts) + 1, finish_reason="stop")]
        for i, parts in enumerate(texts)
    ]
    order = draw(st.permutations([i for i, pieces in enumerate(choices) for _ in pieces]))
    waiting = [iter(pieces) for pieces in choices]
    return [next(waiting[i]) for i in order]


@given(answers())
async def test_a_stream_says_what_the_whole_answer_says(pieces: list[Piece]) -> None:
    run = generation(pieces)
    whole = {c.index: (c.text, c.finish_reason) for c in await run.collect()}
    chunks = objects_of(await text_of(chat_answers.events(generation(pieces), True)))
    texts: dict[int, list[str]] = {}
    ends: dict[int, str] = {}
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        assert choice["index"] not in ends
        if "role" in choice["delta"]:
            assert choice["index"] not in texts
        texts.setdefault(choice["index"], []).append(choice["delta"].get("content", ""))
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert {i: ("".join(texts[i]), ends[i]) for i in texts} == whole
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == msgspec.to_builtins(run.usage)
    legacy = objects_of(await text_of(completion_answers.events(generation(pieces), False)))
    assert {
        i: "".join(e["choices"][0]["text"] for e in legacy if e["choices"][0]["index"] == i)
        for i in whole
    } == {i: text for i, (text, _) in whole.items()}


def logprob(content: bytes, value: float = -0.5, top: list[TokenLogprob] | None = None) -> Any:
    return TokenLogprob(1, content.decode(errors="replace"), list(content), value, top or [])


async def test_chat_logprobs_have_openais_shape() -> None:
    entry = logprob(b"hi", -0.25, [logprob(b"hi", -0.25), logprob(b"yo", float("-inf"))])
    run = generation([Piece(index=0, text="hi", tokens=1, logprobs=[entry], finish_reason="stop")])
    [choice] = chat_answers.completion(run, await run.collect()).choices
    assert msgspec.to_builtins(choice.logprobs) == {
        "content": [
            {
                "token": "hi",
                "logprob": -0.25,
                "bytes": [104, 105],
                "top_logprobs": [
                    {"token": "hi", "logprob": -0.25, "bytes": [104, 105]},
                    {"token": "yo", "logprob": -9999.0, "bytes": [121, 111]},
                ],
            }
        ],
        "refusal": None,
    }


def test_legacy_logprobs_always_hold_the_chosen_token() -> None:
    made = LegacyLogprobs().add([logprob(b"a", -2.0, [logprob(b"b", -0.1)])])
    assert made is not None
    assert made.top_logprobs == [{"b": -0.1, "a": -2.0}]
    assert (made.tokens, made.token_logprobs) == (["a"], [-2.0])


def test_tokens_that_are_no_whole_character_are_named_by_their_bytes() -> None:
    made = LegacyLogprobs().add([logprob(part) for part in (b"a", b"\xe2\x82", b"\xac", b"b")])
    assert made is not None
    assert made.tokens == ["a", "bytes:\\xe2\\x82", "bytes:\\xac", "b"]
    assert made.text_offset == [0, 1, 1, 2]


@given(st.text(), st.data())
def test_text_offsets_point_at_the_tokens_in_the_text(text: str, data: st.DataObject) -> None:
    content = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(content) - 1)))))
    tokens = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    follower = LegacyLogprobs()
    offsets = []
    for token in tokens:
        made = follower.add([logprob(token)])
        assert made is not None
        offsets += made.text_offset
    starts = [
        len(content[: sum(map(len, tokens[:i]))].decode(errors="ignore"))
        for i in range(len(tokens))
    ]
    assert offsets == starts


def test_without_logprobs_there_are_none() -> None:
    assert LegacyLogprobs().add(None) is None
