"""Chat answers in OpenAI's shapes, whole and streamed."""

from collections.abc import AsyncIterator, Sequence

from msgspec import UNSET, UnsetType

from service.http import sse
from service.serving import engine
from service.serving.call_events import Reading
from service.serving.chat_messages import Speech, message
from service.serving.chat_schemas import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatFinishReason,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    TokenLogprob,
    TopLogprob,
)
from service.serving.generation import Choice, Generation, finish_reason
from service.serving.merging import closing
from service.serving.schemas import Usage, finite


def completion(run: Generation, choices: Sequence[Choice]) -> ChatCompletion:
    """Build the whole answer."""
    return ChatCompletion(
        id=run.id,
        object="chat.completion",
        created=run.created,
        model=run.model,
        choices=[_choice(choice, run.calls) for choice in choices],
        usage=run.usage,
        service_tier="default",
        system_fingerprint=run.fingerprint,
    )


async def events(run: Generation, include_usage: bool) -> AsyncIterator[bytes]:
    """Encode the answer as it comes: who speaks, what is said, how it ended; for each choice."""
    speeches: dict[int, Speech] = {}
    no_usage = None if include_usage else UNSET
    async with closing(run.pieces()) as pieces:
        async for piece in pieces:
            if piece.index not in speeches:
                speeches[piece.index] = Speech(run.calls)
                first = _delta(piece, speeches[piece.index].begin())
                yield _chunk(run, [first], no_usage)
            for choice in _chunk_choices(piece, speeches[piece.index]):
                yield _chunk(run, [choice], no_usage)
    if include_usage:
        yield _chunk(run, [], run.usage)
    yield sse.DONE


def _choice(choice: Choice, reading: Reading | None) -> ChatChoice:
    made, reason = message(choice.text, choice.finish_reason, reading)
    return ChatChoice(
        index=choice.index,
        message=made,
        logprobs=_logprobs(choice.logprobs),
        finish_reason=reason,
    )


def _chunk_choices(piece: engine.Piece, speech: Speech) -> list[ChunkChoice]:
    reason = finish_reason(piece)
    deltas = speech.add(piece.text, last=reason is not None)
    if piece.logprobs and not deltas:
        deltas = [Delta(content="")]
    choices = [_delta(piece, delta) for delta in deltas]
    if choices:
        choices[0].logprobs = _logprobs(piece.logprobs)
    if reason is not None:
        choices.append(_delta(piece, Delta(), reason=speech.reason(reason)))
    return choices


def _delta(
    piece: engine.Piece, delta: Delta, reason: ChatFinishReason | None = None
) -> ChunkChoice:
    return ChunkChoice(index=piece.index, delta=delta, logprobs=None, finish_reason=reason)


def _chunk(run: Generation, choices: list[ChunkChoice], used: Usage | UnsetType | None) -> bytes:
    return sse.data(
        ChatCompletionChunk(
            id=run.id,
            object="chat.completion.chunk",
            created=run.created,
            model=run.model,
            service_tier="default",
            system_fingerprint=run.fingerprint,
            choices=choices,
            usage=used,
        )
    )


def _logprobs(entries: Sequence[engine.TokenLogprob] | None) -> ChoiceLogprobs | None:
    if entries is None:
        return None
    return ChoiceLogprobs(content=[_entry(entry) for entry in entries], refusal=None)


def _entry(entry: engine.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token=entry.token,
        logprob=finite(entry.logprob),
        bytes=entry.bytes,
        top_logprobs=[
            TopLogprob(token=top.token, logprob=finite(top.logprob), bytes=top.bytes)
            for top in entry.top
        ],
    )
