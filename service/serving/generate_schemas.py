"""`POST /v1/tenants/{tenant}/generate` on the wire: the house's own."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.serving.chat_schemas import ChatMessage
from service.serving.schemas import FinishReason, SamplingFields, Usage
from service.wire import Output


class GenerateRequest(SamplingFields):
    """A prompt or a conversation for one of the tenant's adapters: exactly one of the two.

    Sampling defaults are those of the OpenAI endpoints, so that a request means the same on all
    three: ask for `temperature: 0` where the likeliest answer is wanted.
    """

    prompt: Annotated[
        str | None,
        Meta(
            description="Rendered as the adapter was trained: a user's turn for an adapter made "
            "from conversations, raw text for one made from raw text."
        ),
    ] = None
    messages: Annotated[
        Annotated[list[ChatMessage], Meta(min_length=1)] | None,
        Meta(description="A conversation, rendered by the base's chat template."),
    ] = None
    adapter: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Whatever `model` may be on the OpenAI endpoints. Default: the tenant's "
            "newest adapter, and 404 while there is none."
        ),
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Most tokens to generate. Default 256, or what the context leaves."),
    ] = None
    stream: Annotated[
        bool | None, Meta(description="Answer with server-sent events, as tokens are made.")
    ] = None


class Generated(Output):
    """The answer, and which immutable revision gave it."""

    id: str
    tenant: str
    model: Annotated[str, Meta(description="The exact revision that answered.")]
    text: str
    finish_reason: FinishReason
    usage: Usage


class GeneratedPiece(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a streamed answer; the last one carries `finish_reason` and `usage`."""

    id: str
    tenant: str
    model: str
    text: str
    finish_reason: FinishReason | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
