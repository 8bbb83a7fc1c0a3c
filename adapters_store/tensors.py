"""adapter_model.safetensors, read without torch: is it a whole, finite, plain LoRA adapter?"""

import json
import math
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from msgspec import Meta

from adapters_store.config import AdapterConfig
from adapters_store.errors import InvalidAdapter
from adapters_store.files import CHUNK
from adapters_store.layout import WEIGHTS_FILE

MAX_HEADER_BYTES = 16 << 20

# The unsigned integer that a number is read as, and the bits of its exponent: all set means
# infinite or not a number. So bf16, which numpy does not know, needs no care of its own.
_DTYPES = {"F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
_NAME = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]{1,256})\.lora_(?P<side>[AB])\.weight"
)


class Tensor(msgspec.Struct, frozen=True):
    """One entry of the header; offsets count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def check(file: BinaryIO, config: AdapterConfig) -> list[Tensor]:
    """Hold the weights to the config. Raises InvalidAdapter that names what is wrong."""
    tensors, data_start = read_header(file)
    _check_pairs(tensors, config)
    for tensor in tensors:
        _check_finite(file, tensor, data_start + tensor.begin)
    return tensors


def is_blank(folder: Path) -> bool:
    """Tell whether every B is zero: such an adapter changes nothing. Raises InvalidAdapter."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        tensors, data_start = read_header(file)
        return all(
            _is_zero(file, tensor, data_start + tensor.begin)
            for tensor in tensors
            if (found := _NAME.fullmatch(tensor.name)) and found["side"] == "B"
        )


def read_header(file: BinaryIO) -> tuple[list[Tensor], int]:
    """Read the tensors in their order in the file, and where their data starts."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise _fault("is cut off or is not safetensors: the header is longer than the file")
    if length > MAX_HEADER_BYTES:
        raise _fault(f"has a header over {MAX_HEADER_BYTES} bytes")
    tensors = _parse(file.read(length))
    _check_layout(tensors, size - 8 - length)
    return tensors, 8 + length


def _parse(header: bytes) -> list[Tensor]:
    if not header.startswith(b"{"):
        raise _fault("has a header that is not an object")
    try:
        document = json.loads(header.decode(), object_pairs_hook=_unique)
        msgspec.convert(document.pop("__metadata__", {}), dict[str, str])
    except (ValueError, RecursionError) as fault:
        raise _fault(f"has a header that cannot be read: {str(fault)[:120]}") from None
    if not document:
        raise _fault("holds no tensors")
    return sorted((_tensor(*item) for item in document.items()), key=lambda tensor: tensor.begin)


_Size = Annotated[int, Meta(ge=1, le=1 << 32)]
_Offset = Annotated[int, Meta(ge=0, le=1 << 48)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: Literal["F32", "F16", "BF16"]
    shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    data_offsets: tuple[_Offset, _Offset]


def _tensor(name: str, value: Any) -> Tensor:
    try:
        entry = msgspec.convert(value, _Entry)
    except msgspec.ValidationError as fault:
        raise _fault(f"{name[:120]!a}: {fault}") from None
    tensor = Tensor(name, entry.dtype, entry.shape, *entry.data_offsets)
    width = np.dtype(_DTYPES[tensor.dtype][0]).itemsize
    if tensor.end - tensor.begin != width * math.prod(tensor.shape):
        raise _fault(f"{name[:120]!a} has offsets that do not fit its shape")
    return tensor


def _check_layout(tensors: list[Tensor], data_bytes: int) -> None:
    if tensors[0].begin != 0 or any(a.end != b.begin for a, b in pairwise(tensors)):
        raise _fault("has tensors that overlap or leave a hole")
    if tensors[-1].end > data_bytes:
        raise _fault(f"is cut off: {data_bytes} bytes of data where {tensors[-1].end} belong")
    if tensors[-1].end < data_bytes:
        raise _fault(f"has {data_bytes - tensors[-1].end} bytes after the last tensor")


def _check_pairs(tensors: list[Tensor], config: AdapterConfig) -> None:
    sides: dict[str, set[str]] = {}
    for tensor in tensors:
        found = _NAME.fullmatch(tensor.name)
        if found is None:
            raise _fault(f"{tensor.name[:120]!a} is not a LoRA weight")
        _check_shape(tensor, found["side"], config.rank_of(found["module"]))
        sides.setdefault(found["module"], set()).add(found["side"])
    for module, present in sides.items():
        if len(present) == 1:
            raise _fault(f"{module} has no lora_{'B' if 'A' in present else 'A'}")
    _check_targets(set(sides), config)


def _check_shape(tensor: Tensor, side: str, rank: int) -> None:
    if len(tensor.shape) != 2:
        raise _fault(f"{tensor.name} is not a matrix: {list(tensor.shape)}")
    found = tensor.shape[0 if side == "A" else 1]
    if found != rank:
        raise _fault(f"{tensor.name} has rank {found}, the config says {rank}")


def _check_targets(modules: set[str], config: AdapterConfig) -> None:
    missing = set(config.target_modules)
    for module in sorted(modules):
        targets = config.targets_of(module)
        if not targets:
            raise _fault(f"{module} is not among the config's target_modules")
        missing -= targets
    if missing:
        raise _fault(f"no weights for the target module {min(missing)}")


def _check_finite(file: BinaryIO, tensor: Tensor, start: int) -> None:
    _, exponent = _DTYPES[tensor.dtype]
    for bits in _blocks(file, tensor, start):
        if np.any((bits & exponent) == exponent):
            raise _fault(f"{tensor.name} holds NaN or infinity")


def _is_zero(file: BinaryIO, tensor: Tensor, start: int) -> bool:
    # Shifted, the sign is out: there is a zero of each.
    return not any(np.any(bits << 1) for bits in _blocks(file, tensor, start))


def _blocks(file: BinaryIO, tensor: Tensor, start: int) -> Iterator[Any]:
    """Read a tensor's numbers, as unsigned integers of their width."""
    kind, _ = _DTYPES[tensor.dtype]
    file.seek(start)
    left = tensor.end - tensor.begin
    while left:
        block = file.read(min(CHUNK, left))
        if not block:
            raise _fault("became shorter while it was read")
        yield np.frombuffer(block, dtype=kind)
        left -= len(block)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _fault(what: str) -> InvalidAdapter:
    return InvalidAdapter(f"{WEIGHTS_FILE}: {what}")
