"""Tar archives from strangers, plain or in gzip: checked member by member, before it is kept.

No name of the archive's becomes a path: the files that an adapter is made of are written under our
own names, and what is harmless beside them is read over. `tarfile` parses headers here and does
nothing else: its own reader follows links, takes extended headers of any size into memory, and
skips what it cannot read.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tarfile import (
    AREGTYPE,
    BLKTYPE,
    BLOCKSIZE,
    CHRTYPE,
    DIRTYPE,
    FIFOTYPE,
    GNUTYPE_LONGNAME,
    GNUTYPE_SPARSE,
    LNKTYPE,
    REGTYPE,
    SYMTYPE,
    XGLTYPE,
    XHDTYPE,
    HeaderError,
    TarInfo,
)
from typing import BinaryIO

import msgspec

from adapters_store import config, files, manifest
from adapters_store.errors import InvalidAdapter
from adapters_store.inflating import Source
from adapters_store.layout import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE

MOST_HEADERS = 256
MOST_EXTENDED_BYTES = 64 << 10
MOST_NAME = 512
DEEPEST = 2
"""A member is in the archive's one folder, or in none."""

_KINDS = {
    LNKTYPE: "a hard link",
    SYMTYPE: "a symbolic link",
    CHRTYPE: "a device",
    BLKTYPE: "a device",
    FIFOTYPE: "a pipe",
    GNUTYPE_SPARSE: "a sparse file",
}
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What PEFT, the hub and a Mac leave beside an adapter.
_HARMLESS = (".md", ".txt", ".json", ".jinja", ".model", ".DS_Store", ".gitattributes", "LICENSE")


class Member(msgspec.Struct, frozen=True):
    """What a header, with what extends it, says of a member."""

    path: PurePosixPath
    size: int
    is_folder: bool


def unpack(file: BinaryIO, folder: Path, most: int) -> None:
    """Write an archive's adapter, and its manifest if it has one, into an empty folder.

    `most` are the bytes that all its members may have. Raises InvalidAdapter.
    """
    source = Source(file)
    wanted: dict[str, Member] = {}
    seen: set[PurePosixPath] = set()
    left = most
    for member in _members(source):
        left -= member.size
        if left < 0:
            raise _fault(f"unpacks to more than {most} bytes")
        if member.path in seen and not member.is_folder:
            raise _fault(f"holds {_shown(member)} twice")
        seen.add(member.path)
        if not member.is_folder and _is_wanted(member, wanted):
            _write(source, member, folder / member.path.name)
        else:
            source.skip(member.size)
        source.skip(-member.size % BLOCKSIZE)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in wanted:
            raise _fault(f"holds no {name}")


def _is_wanted(member: Member, wanted: dict[str, Member]) -> bool:
    """Tell what is kept from what is read over. Raises InvalidAdapter for what may be neither."""
    name = member.path.name
    if name in (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE):
        if any(member.path.parent != other.path.parent for other in wanted.values()):
            raise _fault(f"holds more than one adapter: {_shown(member)} lies elsewhere")
        wanted[name] = member
        return True
    if name.lower().endswith(_PICKLES):
        raise _fault(f"holds {_shown(member)}, which may be pickled code: only safetensors is read")
    if not name.startswith("._") and not name.endswith(_HARMLESS):
        raise _fault(f"holds {_shown(member)}, which is no part of an adapter")
    return False


def _write(source: Source, member: Member, path: Path) -> None:
    most = {CONFIG_FILE: config.MAX_BYTES, MANIFEST_FILE: manifest.MAX_BYTES}.get(path.name)
    if most is not None and member.size > most:
        raise InvalidAdapter(f"{path.name}: is larger than {most} bytes")
    with path.open("xb") as out:
        for block in source.blocks(member.size):
            out.write(block)
        files.settle(out)


def _members(source: Source) -> Iterator[Member]:
    extended: dict[bytes, bytes] = {}
    for _ in range(MOST_HEADERS):
        header = _header(source)
        if header is None:
            source.finish()
            return
        if header.type == XHDTYPE:
            extended |= _records(_extension(source, header))
        elif header.type == GNUTYPE_LONGNAME:
            extended[b"path"] = _extension(source, header).rstrip(b"\0")
        elif header.type == XGLTYPE:
            if _records(_extension(source, header)).keys() & {b"path", b"size"}:
                raise _fault("names or measures all its members at once")
        else:
            yield _member(header, extended)
            extended = {}
    raise _fault(f"has more than {MOST_HEADERS} headers")


def _header(source: Source) -> TarInfo | None:
    """Read one; None is the mark of the archive's end."""
    block = source.read(BLOCKSIZE)
    if not any(block):
        return None
    try:
        header = TarInfo.frombuf(block, "utf-8", "strict")
    except UnicodeDecodeError:
        raise _fault("has a name that is not UTF-8") from None
    except (HeaderError, ValueError):
        raise _fault("is no tar archive, or is damaged: a header does not add up") from None
    if any(block[:100].partition(b"\0")[2]):
        raise _fault(f"has a name with a NUL in it: {header.name[:80]!a}")
    return header


def _extension(source: Source, header: TarInfo) -> bytes:
    if not 0 <= header.size <= MOST_EXTENDED_BYTES:
        raise _fault(f"has an extended header over {MOST_EXTENDED_BYTES} bytes")
    content = source.read(header.size)
    source.skip(-header.size % BLOCKSIZE)
    return content


def _records(content: bytes) -> dict[bytes, bytes]:
    """Read POSIX's `length key=value` lines, in which the length counts itself."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        length = content[at : at + 8].partition(b" ")[0]
        end = at + int(length) if length.isdigit() else at
        key, equals, value = content[at + len(length) + 1 : end - 1].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise _fault("has an extended header that cannot be read")
        records[key] = value
        at = end
    return records


def _member(header: TarInfo, extended: dict[bytes, bytes]) -> Member:
    path = _path(extended[b"path"]) if b"path" in extended else _path(header.name)
    if any(key.startswith(b"GNU.sparse") for key in extended):
        raise _fault(f"holds {str(path)!a}, which is a sparse file")
    is_folder = header.type == DIRTYPE
    if header.type not in (REGTYPE, AREGTYPE, DIRTYPE):
        kind = _KINDS.get(header.type, "neither a file nor a folder")
        raise _fault(f"holds {str(path)!a}, which is {kind}")
    given = extended.get(b"size", b"")
    size = int(given) if given.isdigit() and len(given) < 20 else header.size
    if size < 0 or (is_folder and size):
        raise _fault(f"holds {str(path)!a} with a size of {size}")
    return Member(path, size, is_folder)


def _path(name: str | bytes) -> PurePosixPath:
    """Read a member's name, which may not lead anywhere. Raises InvalidAdapter."""
    if isinstance(name, bytes):
        try:
            name = name.decode()
        except UnicodeDecodeError:
            raise _fault("has a name that is not UTF-8") from None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _fault(f"holds {name[:80]!a}, a path that leads out of it")
    if len(name) > MOST_NAME or "\\" in name or not name.isprintable():
        raise _fault(f"holds {name[:80]!a}, which is not a plain name")
    if len(path.parts) > DEEPEST:
        raise _fault(f"holds {name[:80]!a}, deeper than one folder")
    return path


def _shown(member: Member) -> str:
    return ascii(str(member.path)[:80])


def _fault(what: str) -> InvalidAdapter:
    return InvalidAdapter(f"the archive {what}")
