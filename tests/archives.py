"""Archives of adapters: good ones, and every bad one that we could think of."""

import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import BLOCKSIZE, TarInfo
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import load, save

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"

Folder = dict[str, bytes]
"""What an adapter's folder holds."""
Named = tuple[str | TarInfo, bytes]


class Corruption(msgspec.Struct, frozen=True):
    """A way to spoil a good adapter, and a piece of what is said of it then."""

    name: str
    spoil: Callable[[Folder], bytes]
    """From a good adapter to the archive of a bad one."""
    reason: str


def folder_of(path: Path) -> Folder:
    """Read a folder's files."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def tar(folder: Folder, *more: Named, root: str = "", **how: Any) -> bytes:
    """Archive files, in the archive's folder `root` if it is given, and more members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **how) as archive:
        for name, content in [*((root + name, folder[name]) for name in folder), *more]:
            header = name if isinstance(name, TarInfo) else TarInfo(name)
            if not isinstance(name, TarInfo):
                header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return out.getvalue()


def raw(folder: Folder, *blocks: bytes) -> bytes:
    """Put blocks of one's own making before the files."""
    return b"".join(blocks) + tar(folder)


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    """Make a member's header, whatever it says."""
    made = TarInfo(name)
    made.type, made.size, made.linkname = kind, size, "/etc/passwd" if kind in b"12" else ""
    return made.tobuf(tarfile.GNU_FORMAT)


def extension(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """Make what extends the next header."""
    return header("extended", kind, len(content)) + content + bytes(-len(content) % BLOCKSIZE)


def with_document(folder: Folder, **changes: Any) -> bytes:
    """Archive the adapter with another config."""
    document = json.dumps(json.loads(folder[CONFIG]) | changes)
    return tar(folder | {CONFIG: document.encode()})


def with_tensors(folder: Folder, change: Callable[[dict[str, np.ndarray]], object]) -> bytes:
    """Archive the adapter with other tensors."""
    tensors = load(folder[WEIGHTS])
    change(tensors)
    return tar(folder | {WEIGHTS: save(tensors)})


def with_header(folder: Folder, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Archive the adapter with another header of its tensors."""
    content = folder[WEIGHTS]
    end = 8 + int.from_bytes(content[:8], "little")
    document = json.loads(content[8:end])
    change(document)
    return tar(folder | {WEIGHTS: safetensors(json.dumps(document).encode(), content[end:])})


def safetensors(head: bytes, data: bytes) -> bytes:
    """Put a file of tensors together."""
    return len(head).to_bytes(8, "little") + head + data


def first(tensors: dict[str, Any], side: str = "A") -> str:
    """Name the first tensor of a side."""
    return min(name for name in tensors if f"lora_{side}" in name)


def _archives() -> Iterator[tuple[str, Callable[[Folder], bytes], str]]:
    yield "nothing", lambda _: b"", "cut off"
    yield "text", lambda _: b"an adapter, honestly " * 99, "no tar archive"
    yield "zip", _zipped, "no tar archive"
    yield "xz", lambda f: lzma.compress(tar(f)), "no tar archive"
    yield "cut in a header", lambda f: tar(f)[: BLOCKSIZE - 1], "cut off"
    yield "cut in a file", lambda f: tar(f)[: 9 * BLOCKSIZE], "cut off"
    yield "cut before its end", lambda f: tar(f).rstrip(b"\0"), "cut off"
    yield "longer", lambda f: tar(f) + b"more", "goes on after its end"
    yield "flipped header", lambda f: _flipped(tar(f), 100), "does not add up"
    yield "cut gzip", lambda f: gzip.compress(tar(f))[:-9], "gzip stream has no end"
    yield "flipped gzip", lambda f: _flipped(gzip.compress(tar(f)), -8), "damaged"
    yield "longer gzip", lambda f: gzip.compress(tar(f)) + b"more", "end of its gzip stream"
    yield "bomb", lambda _: gzip.compress(header("README.md", size=1 << 26) + bytes(1 << 26)), "100"
    yield "bomb in a header", _bomb_in_a_header, "extended header over"
    yield "many members", lambda f: tar(f, *[(f"{i}.md", b"") for i in range(300)]), "256 headers"
    yield "huge size", lambda f: raw(f, header("README.md", size=1 << 60)), "unpacks to more than"
    yield "negative size", lambda f: raw(f, header("README.md", size=-1)), "a size of -1"


def _names() -> Iterator[tuple[str, Callable[[Folder], bytes], str]]:
    for name, shown in {
        "../adapter_config.json": "leads out of it",
        "a/../../b.md": "leads out of it",
        "/etc/b.md": "leads out of it",
        "a\\b.md": "not a plain name",
        "a\nb.md": "not a plain name",
        "a/b/c.md": "deeper than one folder",
        "x/adapter_config.json": "more than one adapter",
        "adapter_config.json": "'adapter_config.json' twice",
        "./adapter_config.json": "'adapter_config.json' twice",
        "adapter_model.bin": "pickled code",
        "folder/optimizer.PT": "pickled code",
        "code.py": "no part of an adapter",
    }.items():
        yield f"{name!a}", lambda f, name=name: tar(f, (name, b"")), shown
    yield "NUL in a name", lambda f: raw(f, _renamed(b"a.md\0../b")), "a NUL in it"
    yield "Latin in a name", lambda f: raw(f, _renamed(b"\xe9.md")), "not UTF-8"
    for kind, shown in {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.CONTTYPE: "neither a file nor a folder",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
    }.items():
        yield f"kind {kind!a}", lambda f, kind=kind: raw(f, header("b.md", kind)), shown
    yield "no config", lambda f: tar({WEIGHTS: f[WEIGHTS]}), "holds no adapter_config.json"
    yield "no weights", lambda f: tar({CONFIG: f[CONFIG]}), "holds no adapter_model.safetensors"


def _extensions() -> Iterator[tuple[str, Callable[[Folder], bytes], str]]:
    def extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> Callable[[Folder], bytes]:
        return lambda f: raw(f, extension(content, kind))

    yield "extended ..", extended(b"13 path=../b\n"), "leads out of it"
    yield "extended NUL", extended(b"13 path=a\0bc\n"), "not a plain name"
    yield "extended Latin", extended(b"10 path=\xe9\n"), "not UTF-8"
    yield "extended size", extended(b"28 size=9999999999999999999\n"), "unpacks to more than"
    yield "extended sparse", extended(b"22 GNU.sparse.major=1\n"), "a sparse file"
    yield "extended nonsense", extended(b"99 path=b\n"), "cannot be read"
    yield "extended nothing", extended(b"0 path=b\n"), "cannot be read"
    yield "long ..", extended(b"../b.md\0", tarfile.GNUTYPE_LONGNAME), "leads out of it"
    yield "all renamed", extended(b"13 path=b.md\n", tarfile.XGLTYPE), "all its members at once"


def _configs() -> Iterator[tuple[str, Callable[[Folder], bytes], str]]:
    def content(of: bytes) -> Callable[[Folder], bytes]:
        return lambda f: tar(f | {CONFIG: of})

    def field(**changes: Any) -> Callable[[Folder], bytes]:
        return lambda f: with_document(f, **changes)

    yield "config: no JSON", content(b"\x80\x04N."), "adapter_config.json: is not JSON"
    yield "config: deep", content(b'{"a":' * 99 + b"1" + b"}" * 99), "nested deeper than"
    yield "config: repeated key", content(b'{"r": 4, "r": 8}'), "a key appears twice"
    yield "config: huge", content(b" " * (1 << 21)), "adapter_config.json: is larger than"
    yield "config: rank", field(r=8), "rank 4, the config says 8"
    yield "config: no rank", field(r=0), "'r' must be a positive integer"
    yield "config: pattern", field(target_modules="(a+)+$"), "'target_modules' must be a list"
    yield "config: fewer targets", field(target_modules=["q_proj"]), "not among the config's"
    yield "config: more targets", field(target_modules=["q_proj", "o_proj", "x"]), "no weights for"
    yield "config: LoHa", field(peft_type="LOHA"), "'peft_type' must be LORA"
    yield "config: DoRA", field(use_dora=True), "'use_dora' is not supported"
    yield (
        "config: modules",
        field(modules_to_save=["lm_head"]),
        "'modules_to_save' is not supported",
    )
    yield "config: bias", field(bias="all"), "'bias' must be none"
    yield "config: PiSSA", field(init_lora_weights="pissa"), "'init_lora_weights' changes the base"
    yield "config: classifier", field(task_type="SEQ_CLS"), "'task_type' is foreign"


def _weights() -> Iterator[tuple[str, Callable[[Folder], bytes], str]]:
    def content(change: Callable[[bytes], bytes]) -> Callable[[Folder], bytes]:
        return lambda f: tar(f | {WEIGHTS: change(f[WEIGHTS])})

    def entry(side: str, **changes: Any) -> Callable[[Folder], bytes]:
        return lambda f: with_header(f, lambda head: head[first(head, side)].update(changes))

    def number(value: float) -> Callable[[Folder], bytes]:
        return lambda f: with_tensors(f, lambda all_: all_[first(all_, "B")].put(-1, value))

    yield "weights: cut", content(lambda w: w[:-1]), "is cut off: "
    yield "weights: longer", content(lambda w: w + b"\0"), "1 bytes after the last tensor"
    yield "weights: empty", content(lambda _: b""), "is cut off"
    yield "weights: pickle", content(lambda _: pickle.dumps([1] * 9)), "pickled code"
    yield "weights: torch's zip", content(lambda _: b"PK\3\4" + bytes(99)), "pickled code"
    yield "weights: header length", content(lambda w: b"\xff" * 8 + w[8:]), "longer than the file"
    yield "weights: huge header", content(_huge_header), "has a header over"
    yield "weights: million", content(_million_tensors), "has a header over"
    yield "weights: repeated", content(_repeated), "a key appears twice"
    yield "weights: overlap", entry("B", data_offsets=[0, 4096]), "overlap or leave a hole"
    yield "weights: outside", entry("A", data_offsets=[1 << 40, (1 << 40) + 4096]), "leave a hole"
    yield "weights: integers", entry("A", dtype="I32"), "Invalid enum value 'I32'"
    yield "weights: shape", entry("A", shape=[4, 255]), "do not fit its shape"
    yield "weights: NaN", number(np.nan), "holds NaN or infinity"
    yield "weights: infinity", number(-np.inf), "holds NaN or infinity"
    yield "weights: zeros", lambda f: with_tensors(f, _silence), "every B is zero"
    yield "weights: no B", lambda f: with_tensors(f, lambda t: t.pop(first(t, "B"))), "no lora_B"
    yield "weights: foreign", lambda f: with_tensors(f, _add_a_head), "is not a LoRA weight"


def _manifests() -> Iterator[tuple[str, Callable[[Folder], bytes], str]]:
    def content(of: bytes) -> Callable[[Folder], bytes]:
        return lambda f: tar(f | {MANIFEST: of})

    yield "manifest: another's", content(b'{"name": "a web page"}'), "is not an export's"
    yield "manifest: deep", content(b'{"origin":' * 9999 + b"}" * 9999), "is not an export's"


def _zipped(folder: Folder) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in folder.items():
            archive.writestr(name, content)
    return out.getvalue()


def _flipped(content: bytes, place: int) -> bytes:
    flipped = bytearray(content)
    flipped[place] ^= 1
    return bytes(flipped)


def _bomb_in_a_header(folder: Folder) -> bytes:
    return gzip.compress(raw(folder, header("x", tarfile.XHDTYPE, 1 << 24), bytes(1 << 24)))


def _renamed(name: bytes) -> bytes:
    """Make a header with a name that tarfile would not write."""
    block = bytearray(header("x"))
    block[: len(name)] = name
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def _huge_header(_: bytes) -> bytes:
    return safetensors(b"{" + b" " * (16 << 20) + b"}", b"")


def _million_tensors(_: bytes) -> bytes:
    entry = '"%d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    return safetensors(f"{{{','.join(entry % i for i in range(10**6))}}}".encode(), bytes(4))


def _repeated(weights: bytes) -> bytes:
    end = 8 + int.from_bytes(weights[:8], "little")
    entries = weights[9:end].rstrip(b" }") + b"}"
    return safetensors(b"{" + entries + b"," + entries + b"}", weights[end:])


def _silence(tensors: dict[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensors[name] = np.negative(np.zeros_like(tensor))


def _add_a_head(tensors: dict[str, np.ndarray]) -> None:
    tensors["lm_head.weight"] = np.ones((4, 4), np.float32)


CORRUPTIONS = [
    Corruption(*made)
    for table in (_archives, _names, _extensions, _configs, _weights, _manifests)
    for made in table()
]
