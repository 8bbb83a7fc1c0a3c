"""How a model's tensors are divided among files, under the names of Hugging Face. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

INDEX = "model.safetensors.index.json"
BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Of one number, by safetensors' name of its type."""


class Entry(msgspec.Struct, frozen=True):
    """A tensor to be written, and how."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return BYTES[self.dtype] * math.prod(self.shape)


def divide(entries: Sequence[Entry], most: int) -> dict[str, list[Entry]]:
    """Fill files in the order given, none over `most` bytes but with a single larger tensor."""
    groups: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if not groups or entry.bytes > room:
            groups.append([])
            room = most
        groups[-1].append(entry)
        room -= entry.bytes
    count = len(groups)
    return {
        f"model-{number:05}-of-{count:05}.safetensors": group
        for number, group in enumerate(groups, 1)
    }


def aligned(entries: Sequence[Entry]) -> list[Entry]:
    """Order a file's tensors so that each begins at a multiple of its numbers' size."""
    return sorted(entries, key=lambda entry: (-BYTES[entry.dtype], entry.name))


def header(entries: Sequence[Entry]) -> bytes:
    """Write what a safetensors file of `entries`, in this order, begins with."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + entry.bytes
        offsets = [start, end]
        document[entry.name] = {
            "dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets
        }  # fmt: skip
    text = msgspec.json.encode(document)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def index(files: Mapping[str, Sequence[Entry]]) -> bytes:
    """Write which file holds which tensor."""
    where = {entry.name: name for name, entries in files.items() for entry in entries}
    total = sum(entry.bytes for entries in files.values() for entry in entries)
    document = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
