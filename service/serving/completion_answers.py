"""Completions in OpenAI's shapes, whole and streamed."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from msgspec import UNSET, UnsetType

from service.http import sse
from service.serving.completion_schemas import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
)
from service.serving.generation import Choice, Generation, finish_reason
from service.serving.legacy_logprobs import LegacyLogprobs
from service.serving.merging import closing
from service.serving.schemas import Usage


def completion(run: Generation, choices: Sequence[Choice]) -> Completion:
    """Build the whole answer."""
    return Completion(
        id=run.id,
        object="text_completion",
        created=run.created,
        model=run.model,
        choices=[_choice(choice) for choice in choices],
        usage=run.usage,
        system_fingerprint=run.fingerprint,
    )


async def events(run: Generation, include_usage: bool) -> AsyncIterator[bytes]:
    """Encode the answer as it comes."""
    logprobs: defaultdict[int, LegacyLogprobs] = defaultdict(LegacyLogprobs)
    no_usage = None if include_usage else UNSET
    async with closing(run.pieces()) as pieces:
        async for piece in pieces:
            choice = CompletionChunkChoice(
                text=piece.text,
                index=piece.index,
                logprobs=logprobs[piece.index].add(piece.logprobs),
                finish_reason=finish_reason(piece),
            )
            if choice.text or choice.logprobs or choice.finish_reason:
                yield _chunk(run, [choice], no_usage)
    if include_usage:
        yield _chunk(run, [], run.usage)
    yield sse.DONE


def _choice(choice: Choice) -> CompletionChoice:
    return CompletionChoice(
        text=choice.text,
        index=choice.index,
        logprobs=LegacyLogprobs().add(choice.logprobs),
        finish_reason=choice.finish_reason,
    )


def _chunk(
    run: Generation, choices: list[CompletionChunkChoice], used: Usage | UnsetType | None
) -> bytes:
    return sse.data(
        CompletionChunk(
            id=run.id,
            object="text_completion",
            created=run.created,
            model=run.model,
            system_fingerprint=run.fingerprint,
            choices=choices,
            usage=used,
        )
    )
