"""Chat answers in OpenAI's shapes, whole and streamed."""

from collections.abc import AsyncIterator, Sequence

from msgspec import UNSET, UnsetType

from service.http import sse
from service.serving import engine
from service.serving.chat_schemas import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    TokenLogprob,
    TopLogprob,
)
from service.serving.generation import Choice, Generation, finish_reason
from service.serving.merging import closing
from service.serving.schemas import FinishReason, Usage, finite


def completion(run: Generation, choices: Sequence[Choice]) -> ChatCompletion:
    """Build the whole answer."""
    return ChatCompletion(
        id=run.id,
        object="chat.completion",
        created=run.created,
        model=run.model,
        choices=[_choice(choice) for choice in choices],
        usage=run.usage,
        service_tier="default",
        system_fingerprint=run.fingerprint,
    )


async def events(run: Generation, include_usage: bool) -> AsyncIterator[bytes]:
    """Encode the answer as it comes: who speaks, what is said, how it ended; for each choice."""
    begun: set[int] = set()
    no_usage = None if include_usage else UNSET
    async with closing(run.pieces()) as pieces:
        async for piece in pieces:
            new = piece.index not in begun
            begun.add(piece.index)
            for choice in _chunk_choices(piece, new):
                yield _chunk(run, [choice], no_usage)
    if include_usage:
        yield _chunk(run, [], run.usage)
    yield sse.DONE


def _choice(choice: Choice) -> ChatChoice:
    return ChatChoice(
        index=choice.index,
        message=AssistantMessage(role="assistant", content=choice.text, refusal=None),
        logprobs=_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason,
    )


def _chunk_choices(piece: engine.Piece, new: bool) -> list[ChunkChoice]:
    choices = []
    if new:
        choices.append(_delta(piece, Delta(role="assistant", content="", refusal=None)))
    if piece.text or piece.logprobs:
        choices.append(_delta(piece, Delta(content=piece.text), _logprobs(piece.logprobs)))
    if (reason := finish_reason(piece)) is not None:
        choices.append(_delta(piece, Delta(), reason=reason))
    return choices


def _delta(
    piece: engine.Piece,
    delta: Delta,
    logprobs: ChoiceLogprobs | None = None,
    reason: FinishReason | None = None,
) -> ChunkChoice:
    return ChunkChoice(index=piece.index, delta=delta, logprobs=logprobs, finish_reason=reason)


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
