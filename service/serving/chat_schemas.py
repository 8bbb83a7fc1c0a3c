"""`POST /v1/chat/completions` on the wire: OpenAI's shapes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.serving.schemas import (
    Choices,
    Ignored,
    Metadata,
    ModelName,
    Refused,
    SamplingFields,
    StreamOptions,
    Usage,
)
from service.serving.shape_schemas import (
    MOST_TOOLS,
    GivenCall,
    ResponseFormat,
    Tool,
    ToolChoice,
)
from service.wire import Input, Output

ChatFinishReason = Literal["stop", "length", "tool_calls"]
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
    tool_calls: list[GivenCall] | None = None
    tool_call_id: Annotated[str | None, Meta(description="Required of a `tool` message.")] = None
    refusal: Refused = None
    audio: Refused = None
    function_call: Refused = None
    annotations: Refused = None
    parsed: Annotated[Any, Meta(description="SDKs send it back; not read.")] = None


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
    response_format: Annotated[
        ResponseFormat | None, Meta(description="What the answer is. Default: text.")
    ] = None
    tools: Annotated[
        Annotated[list[Tool], Meta(max_length=MOST_TOOLS)] | None,
        Meta(description="Functions that the model may call, on bases that know of tools."),
    ] = None
    tool_choice: Annotated[
        ToolChoice | None,
        Meta(description="Whether it calls none, may, must, or must call one. Default: may."),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Meta(description="Whether it may call several at once. Default: true.")
    ] = None

    safety_identifier: Ignored = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: bool | None = None
    metadata: Metadata = None

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


class CalledFunction(Output):
    """A function, and what it is called with."""

    name: str
    arguments: Annotated[
        str, Meta(description="JSON, as the model wrote it: whole only if the answer was not cut.")
    ]


class ToolCall(Output):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer. `tool_calls` is there with calls only, and `content` is null beside them unless
    there was text."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Output):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: ChatFinishReason


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


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a call's function: the name comes once, then the arguments."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to one call."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a choice's message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    refusal: UnsetType | None = UNSET


class ChunkChoice(Output):
    """One choice's share of a chunk."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: ChatFinishReason | None


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
