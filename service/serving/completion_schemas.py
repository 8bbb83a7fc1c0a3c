"""`POST /v1/completions` on the wire: OpenAI's shapes."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.serving.schemas import (
    Choices,
    FinishReason,
    Metadata,
    ModelName,
    Refused,
    SamplingFields,
    StreamOptions,
    TokenId,
    Usage,
)
from service.wire import Output

MOST_PROMPTS = 1024
"""Prompts in one request."""


class CompletionRequest(SamplingFields, kw_only=True):
    """Raw text to go on with: no chat template is applied, whatever the model."""

    model: ModelName
    prompt: Annotated[
        str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)],
        Meta(
            description="A text, a list of texts, token ids, or a list of token-id lists; at most "
            f"{MOST_PROMPTS} prompts. Token ids are taken as they are, with no BOS added."
        ),
    ]
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Most tokens to generate. Default 16, or what the context leaves."),
    ] = None
    n: Choices = None
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=5)] | None,
        Meta(description="Give the chosen token's log-probability and this many likeliest."),
    ] = None
    stream: Annotated[
        bool | None, Meta(description="Answer with server-sent events, as tokens are made.")
    ] = None
    stream_options: StreamOptions | None = None

    store: bool | None = None
    metadata: Metadata = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None

    best_of: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(description="Not supported: leave it out, or equal to `n`."),
    ] = None
    echo: Annotated[bool | None, Meta(description="Not supported: leave it out, or false.")] = None
    suffix: Refused = None


class CompletionLogprobs(Output):
    """One entry per generated token. `text_offset` counts characters of the choice's `text`."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Output):
    """One answer; `index` is the prompt's place times `n`, plus the answer's."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class Completion(Output):
    """The answers, and which immutable revision gave them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: Annotated[str, Meta(description="The exact revision that answered.")]
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: Annotated[
        str, Meta(description="Changes when the base or the revision does.")
    ]


class CompletionChunkChoice(Output):
    """New text of one choice."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a streamed answer. `usage` is there with `include_usage` only."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: Usage | UnsetType | None = UNSET
