"""A multipart form with files, streamed to disk as it comes: never whole in memory.

Knows nothing of HTTP but the body's bytes and their content type.
"""

import asyncio
import hashlib
import os
import unicodedata
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
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
    """The form that is wanted. `limit` names what `max_bytes`, of all its files, comes from."""

    fields: frozenset[str]
    max_bytes: int
    limit: str


class Received(msgspec.Struct, frozen=True):
    """A file that came: it lies, synced, at `path`."""

    path: Path
    filename: str
    bytes: int
    sha256: str


class Form(msgspec.Struct, frozen=True):
    """What came, by the names of the form's parts."""

    files: dict[str, Received]
    fields: dict[str, str]

    def file(self, name: str) -> Received:
        """Give a file that must be there. Raises BadRequest."""
        if name not in self.files:
            raise BadRequest(f"The form has no file part '{name}'.", param=name)
        return self.files[name]


async def receive(
    body: AsyncIterator[bytes],
    content_type: str | None,
    places: Mapping[str, Path],
    expected: Expected,
) -> Form:
    """Write the form's files to `places`, by their parts' names; each may be missing.

    Raises BadRequest and TooLarge; the caller cleans up.
    """
    parser = PushMultipartParser(_boundary(content_type))
    with ExitStack() as opened:
        form = _Form(places, expected, opened)
        try:
            async for chunk in body:
                if chunk:
                    form.take(parser, chunk)
                if form.full:
                    await asyncio.to_thread(form.flush)
            parser.close()
        except MultipartError as fault:
            raise BadRequest(f"The multipart body is malformed: {fault}") from None
        return await asyncio.to_thread(form.finish)


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


class _File:
    """Takes a file's bytes towards the disk."""

    def __init__(self, filename: str | None, path: Path, out: BinaryIO) -> None:
        self._filename, self._path, self._out = displayable(filename), path, out
        self._bytes = 0
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | bytearray) -> None:
        self._sha256.update(data)
        self._bytes += self._out.write(data)

    def finish(self) -> Received:
        self._out.flush()
        os.fsync(self._out.fileno())
        return Received(self._path, self._filename, self._bytes, self._sha256.hexdigest())


class _Form:
    """Takes the parser's events: fields into memory, files a block at a time to the disk."""

    def __init__(self, places: Mapping[str, Path], expected: Expected, opened: ExitStack) -> None:
        self._places = places
        self._expected = expected
        self._opened = opened
        self._fields: dict[str, bytearray] = {}
        self._files: dict[str, _File] = {}
        self._bytes = 0
        self._pending = bytearray()
        self._part = ""

    @property
    def full(self) -> bool:
        return len(self._pending) >= WRITE_BYTES

    def take(self, parser: PushMultipartParser, chunk: bytes) -> None:
        for event in parser.parse(chunk):
            if isinstance(event, MultipartSegment):
                self.flush()
                self._begin(event)
            elif event:
                self._add(event)

    def flush(self) -> None:
        if self._pending:
            self._files[self._part].write(self._pending)
            self._pending = bytearray()

    def finish(self) -> Form:
        self.flush()
        files = {name: file.finish() for name, file in self._files.items()}
        return Form(files, {name: _text(name, bytes(v)) for name, v in self._fields.items()})

    def _begin(self, part: MultipartSegment) -> None:
        name = self._part = part.name
        place = self._places.get(name)
        if place is None and name not in self._expected.fields:
            raise BadRequest(
                f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter"
            )
        if name in self._fields or name in self._files:
            raise BadRequest(f"The form has more than one part '{name}'.", param=name)
        if place is None:
            self._fields[name] = bytearray()
        else:
            out = self._opened.enter_context(place.open("wb"))
            self._files[name] = _File(part.filename, place, out)

    def _add(self, data: bytes) -> None:
        if self._part in self._files:
            self._bytes += len(data)
            if self._bytes > self._expected.max_bytes:
                raise self._too_large()
            self._pending += data
            return
        field = self._fields[self._part]
        field += data
        if len(field) > MAX_FIELD_BYTES:
            raise BadRequest(f"The field '{self._part}' is too long.", param=self._part)

    def _too_large(self) -> TooLarge:
        most, limit = self._expected.max_bytes, self._expected.limit
        return TooLarge(f"The {self._part} is larger than {most} bytes, {limit}.", param=self._part)


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"The field '{name}' is not UTF-8.", param=name) from None
