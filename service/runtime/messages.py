"""What the API and the runtime say to each other, and how it is framed.

Frames on a unix stream: a 4-byte big-endian length, then msgpack. A plain stream, because its end
of file tells at once that the other side died.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from adapters_store import RevisionRef
from service import errors
from service.errors import EngineUnavailable, ServiceError
from service.serving.engine import EngineStatus, GenerationRequest, Piece

MAX_FRAME = 16 * 1024 * 1024
_PREFIX = 4
_AT_ONCE = 256 * 1024


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Begin a generation. `call` is the connection's own number for it, never used again."""

    call: int
    request: GenerationRequest


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Stop a generation or a scoring; nothing more is said about it."""

    call: int


class Score(msgspec.Struct, frozen=True, tag=True):
    """Ask for the log-probabilities of prompts."""

    call: int
    revision: RevisionRef | None
    prompts: list[list[int]]


class AskStatus(msgspec.Struct, frozen=True, tag=True):
    """Ask for the engine's status."""

    call: int


class Prefetch(msgspec.Struct, frozen=True, tag=True):
    """Have a revision loaded without a request; Finished tells that it was heard."""

    call: int
    revision: RevisionRef


class Pin(msgspec.Struct, frozen=True, tag=True):
    """Make these the pinned revisions, and no others; then comes Finished."""

    call: int
    revisions: list[RevisionRef]


class Generated(msgspec.Struct, frozen=True, tag=True):
    """A piece of the call's answer."""

    call: int
    piece: Piece


class Scored(msgspec.Struct, frozen=True, tag=True):
    """The answer to Score."""

    call: int
    logprobs: list[list[float]]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The call is complete."""

    call: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The call ended with an error, `kind` being the name of a class in `service.errors`."""

    call: int
    kind: str
    message: str
    param: str | None
    code: str | None


class Status(msgspec.Struct, frozen=True, tag=True):
    """The answer to AskStatus."""

    call: int
    status: EngineStatus


ToRuntime = Generate | Cancel | Score | AskStatus | Prefetch | Pin
FromRuntime = Generated | Finished | Failed | Scored | Status

to_runtime: msgspec.msgpack.Decoder[ToRuntime] = msgspec.msgpack.Decoder(ToRuntime)
from_runtime: msgspec.msgpack.Decoder[FromRuntime] = msgspec.msgpack.Decoder(FromRuntime)
_encoder = msgspec.msgpack.Encoder()

_PLAIN = {
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, ServiceError)
    and kind.__init__ is ServiceError.__init__
}
"""The errors that message, param and code describe wholly."""


class FrameTooLarge(Exception):
    """The other side sent, or we were about to send, a frame over MAX_FRAME."""


def frame(message: ToRuntime | FromRuntime) -> bytes:
    """Encode one message with its length in front. Raises FrameTooLarge."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameTooLarge(f"{len(body)} bytes")
    return len(body).to_bytes(_PREFIX, "big") + body


def split(buffer: bytearray) -> list[bytearray]:
    """Take the bodies of all whole frames out of what has come. Raises FrameTooLarge."""
    bodies, at = [], 0
    while (begin := at + _PREFIX) <= len(buffer):
        length = int.from_bytes(buffer[at:begin], "big")
        if length > MAX_FRAME:
            raise FrameTooLarge(f"{length} bytes")
        if (end := begin + length) > len(buffer):
            break
        bodies.append(buffer[begin:end])
        at = end
    del buffer[:at]
    return bodies


async def read_frames(reader: asyncio.StreamReader) -> AsyncIterator[list[bytearray]]:
    """Yield the bodies that came together, until the stream ends. Raises FrameTooLarge.

    A step of the engine sends a frame to each of its requests: read one by one they would cost
    more than what is done with them.
    """
    buffer = bytearray()
    with suppress(ConnectionError):
        while came := await reader.read(_AT_ONCE):
            buffer += came
            yield split(buffer)


def failure(call: int, error: ServiceError) -> Failed:
    """Put an error on the wire."""
    return Failed(call, type(error).__name__, error.message, error.param, error.code)


def raised(failed: Failed) -> ServiceError:
    """Make the error that `failed` describes, of the same class."""
    kind = getattr(errors, failed.kind, None)
    if kind not in _PLAIN:
        return EngineUnavailable(f"the generation engine failed: {failed.message}")
    made: ServiceError = kind(failed.message, param=failed.param, code=failed.code)
    return made
