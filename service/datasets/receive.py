"""A multipart form with one file, streamed to disk as it comes: never whole in memory.

Knows nothing of HTTP but the body's bytes and their content type.
"""

import asyncio
import hashlib
import os
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from service.errors import BadRequest, TooLarge

WRITE_BYTES = 1024 * 1024
MAX_FIELD_BYTES = 4096
MAX_FILENAME = 255
UNNAMED = "upload"


class Expected(msgspec.Struct, frozen=True):
    """The form that is wanted. `limit` names what `max_bytes` comes from."""

    file: str
    fields: frozenset[str]
    max_bytes: int
    limit: str


class Received(msgspec.Struct, frozen=True):
    """What came: the file lies, synced, at `path`."""

    path: Path
    filename: str
    bytes: int
    sha256: str
    fields: dict[str, str]


async def receive(
    body: AsyncIterator[bytes], content_type: str | None, path: Path, expected: Expected
) -> Received:
    """Write the form's file to `path`. Raises BadRequest and TooLarge; the caller cleans up."""
    parser = PushMultipartParser(_boundary(content_type))
    with path.open("wb") as out:
        form = _Form(out, expected)
        try:
            async for chunk in body:
                if chunk:
                    form.take(parser, chunk)
                if form.full:
                    await asyncio.to_thread(form.flush)
            parser.close()
        except MultipartError as fault:
            raise BadRequest(f"The multipart body is malformed: {fault}") from None
        await asyncio.to_thread(form.finish)
    return form.received(path)


def displayable(filename: str | None) -> str:
    """Keep a file's own name: no folders, no control characters, not too long."""
    name = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if not unicodedata.category(c).startswith("C")).strip()
    return UNNAMED if name in {"", ".", ".."} else name[:MAX_FILENAME]


def _boundary(content_type: str | None) -> str:
    kind, options = parse_options_header(content_type or "")
    boundary: str = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise BadRequest("The body must be multipart/form-data.", code="invalid_body")
    return boundary


class _Form:
    """Takes the parser's events: fields into memory, the file's bytes towards the disk."""

    def __init__(self, out: BinaryIO, expected: Expected) -> None:
        self._out = out
        self._expected = expected
        self._fields: dict[str, bytearray] = {}
        self._filename: str | None = None
        self._bytes = 0
        self._sha256 = hashlib.sha256()
        self._pending = bytearray()
        self._part = ""

    @property
    def full(self) -> bool:
        return len(self._pending) >= WRITE_BYTES

    def take(self, parser: PushMultipartParser, chunk: bytes) -> None:
        for event in parser.parse(chunk):
            if isinstance(event, MultipartSegment):
                self._begin(event)
            elif event:
                self._add(event)

    def flush(self) -> None:
        self._sha256.update(self._pending)
        self._out.write(self._pending)
        self._pending = bytearray()

    def finish(self) -> None:
        self.flush()
        self._out.flush()
        os.fsync(self._out.fileno())

    def received(self, path: Path) -> Received:
        if self._filename is None:
            name = self._expected.file
            raise BadRequest(f"The form has no file part '{name}'.", param=name)
        fields = {name: _text(name, bytes(value)) for name, value in self._fields.items()}
        return Received(path, self._filename, self._bytes, self._sha256.hexdigest(), fields)

    def _begin(self, part: MultipartSegment) -> None:
        name = self._part = part.name
        is_file = name == self._expected.file
        if not is_file and name not in self._expected.fields:
            raise BadRequest(
                f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter"
            )
        if name in self._fields or (is_file and self._filename is not None):
            raise BadRequest(f"The form has more than one part '{name}'.", param=name)
        if is_file:
            self._filename = displayable(part.filename)
        else:
            self._fields[name] = bytearray()

    def _add(self, data: bytes) -> None:
        if self._part == self._expected.file:
            self._bytes += len(data)
            if self._bytes > self._expected.max_bytes:
                raise too_large(self._expected)
            self._pending += data
            return
        field = self._fields[self._part]
        field += data
        if len(field) > MAX_FIELD_BYTES:
            raise BadRequest(f"The field '{self._part}' is too long.", param=self._part)


def too_large(expected: Expected) -> TooLarge:
    """Say which limit it was."""
    return TooLarge(
        f"The {expected.file} is larger than {expected.max_bytes} bytes, {expected.limit}.",
        param=expected.file,
    )


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"The field '{name}' is not UTF-8.", param=name) from None
