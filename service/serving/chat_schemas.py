"""`POST /v1/chat/completions` on the wire: OpenAI's shapes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.serving.schemas import (
    Choices,
    FinishReason,
    Ignored,
    Metadata,
    ModelName,
    Refused,
    SamplingFields,
    StreamOptions,
    Usage,
)
from service.wire import Input, Output

PartType = Literal["text", "refusal", "image_url", "input_audio", "file"]


class ContentPart(Input):
    """A part of a message. Only parts of type `text` are supported."""

    type: PartType
    text: str | None = None
    refusal: Refused = None
    image_url: Refused = None
    input_audio: Refused = None
    file: Refused = None
    prompt_cache_breakpoint: Annotated[
        dict[str, str] | None, Meta(description="Accepted; it changes nothing here.")
    ] = None


class ChatMessage(Input):
    """One turn of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Annotated[
        str | list[ContentPart] | None,
        Meta(description="Text, or text parts that are joined. Null beside `tool_calls` only."),
    ] = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: Annotated[str | None, Meta(description="Required of a `tool` message.")] = None
    refusal: Refused = None
    audio: Refused = None
    function_call: Refused = None
    annotations: Refused = None


class ChatRequest(SamplingFields, kw_only=True):
    """A conversation to go on with, and how."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Most tokens to generate. Default: what the context leaves."),
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="The older name of `max_completion_tokens`."),
    ] = None
    n: Choices = None
    logprobs: Annotated[
        bool | None, Meta(description="Give the log-probability of each generated token.")
    ] = None
    top_logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=20)] | None,
        Meta(description="Likeliest tokens to give at each place; needs `logprobs: true`."),
    ] = None
    stream: Annotated[
        bool | None, Meta(description="Answer with server-sent events, as tokens are made.")
    ] = None
    stream_options: StreamOptions | None = None

    safety_identifier: Ignored = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: bool | None = None
    metadata: Metadata = None
    parallel_tool_calls: bool | None = None

    response_format: Refused = None
    tools: Refused = None
    tool_choice: Refused = None
    functions: Refused = None
    function_call: Refused = None
    modalities: Refused = None
    audio: Refused = None
    prediction: Refused = None
    web_search_options: Refused = None
    moderation: Refused = None
    reasoning_effort: Refused = None
    verbosity: Refused = None


class TopLogprob(Output):
    """A likely token and its natural log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Output):
    """The chosen token, and the likeliest at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Output):
    """Log-probabilities of a choice's tokens."""

    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(Output):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Output):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Output):
    """The answers, and which immutable revision gave them."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: Annotated[str, Meta(description="The exact revision that answered.")]
    choices: list[ChatChoice]
    usage: Usage
    service_tier: Literal["default"]
    system_fingerprint: Annotated[
        str, Meta(description="Changes when the base or the revision does.")
    ]


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a choice's message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET


class ChunkChoice(Output):
    """One choice's share of a chunk."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a streamed answer. `usage` is there with `include_usage` only."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
