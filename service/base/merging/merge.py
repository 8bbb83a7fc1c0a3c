"""The merge itself: W' = W + scaling * B @ A in fp32, stored in 16 bit, a tensor at a time.

Besides the file that is written, memory holds one weight in fp32. The same base and adapter make
the same bytes.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from service.base.description import BaseDescription
from service.base.lora_rules import BadLora
from service.base.merging import nf4, shards
from service.base.merging.adapter import Delta
from service.base.merging.shards import Entry
from service.base.merging.weights import BaseWeights

Method = Literal["plain", "nf4"]
"""Into the base's own weights, or into what NF4 leaves of them."""

COMPANIONS = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "chat_template*",
)  # fmt: skip
"""What makes weights a model that can be talked to."""

_FLOATS = {"F64", "F32", "F16", "BF16"}
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


class MergeError(Exception):
    """This adapter cannot be merged into this base, however often one tries."""

    def __init__(self, message: str, code: str = "merge_not_possible") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def merge(
    base: BaseDescription, adapter: Path, into: Path, method: Method, shard_bytes: int
) -> None:
    """Fill the folder `into` with a Hugging Face model. Raises MergeError, BaseModelError."""
    _Merge(base, adapter, method).write(into, shard_bytes)


class _Merge:
    def __init__(self, base: BaseDescription, adapter: Path, method: Method) -> None:
        if "quantization_config" in base.config:
            raise MergeError("The base's own files are quantised: they cannot be merged into")
        self._base = base
        self._weights = BaseWeights(base.path)
        try:
            self._delta = Delta(adapter)
        except BadLora as fault:
            raise MergeError(f"The adapter cannot be merged: {fault}") from None
        self._changed = {f"{module}.weight": module for module in self._delta.modules}
        self._quantized = nf4.quantized_modules(base.path) if method == "nf4" else set()
        self._dtype = dtype_of(list(self._weights.entries.values()))
        self._check()

    def write(self, into: Path, shard_bytes: int) -> None:
        entries = [self._planned(entry) for entry in self._weights.entries.values()]
        files = shards.divide(entries, shard_bytes)
        for name, held in files.items():
            _write(into / name, shards.aligned(held), self._tensor)
        (into / shards.INDEX).write_bytes(shards.index(files))
        for pattern in COMPANIONS:
            for path in self._base.path.glob(pattern):
                shutil.copyfile(path, into / path.name)
        (into / "config.json").write_bytes(_config(self._base.config, self._dtype))

    def _check(self) -> None:
        for name, module in self._changed.items():
            entry = self._weights.entries.get(name)
            if entry is None:
                raise MergeError(f"The base's files hold no {name}, which the adapter changes")
            if entry.shape != self._delta.shape(module):
                raise MergeError(
                    f"{name} has the shape {list(entry.shape)} in the base and "
                    f"{list(self._delta.shape(module))} in the adapter"
                )
        for entry in self._weights.entries.values():
            if entry.dtype not in shards.BYTES:
                raise MergeError(f"{entry.name} is of the type {entry.dtype}, which is not known")

    def _planned(self, entry: Entry) -> Entry:
        dtype = self._dtype if entry.dtype in _FLOATS else entry.dtype
        return msgspec.structs.replace(entry, dtype=dtype)

    def _tensor(self, name: str) -> Tensor:
        weight = self._weights.read(name)
        if not weight.is_floating_point():
            return weight
        module = name.removesuffix(".weight")
        if name in self._changed or module in self._quantized:
            weight = self._merged(weight, name, module)
        stored = weight.to(_DTYPES[self._dtype])
        if not bool(torch.isfinite(stored).all()):
            raise MergeError(f"{name} is not finite in {self._dtype}", "merge_not_finite")
        return stored

    def _merged(self, weight: Tensor, name: str, module: str) -> Tensor:
        # A copy always: what was read lies in the base's own file.
        full = weight.to(torch.float32, copy=True)
        if module in self._quantized:
            full = nf4.there_and_back(full)
        if name in self._changed:
            self._delta.add_to(full, module)
        return full


def dtype_of(entries: Sequence[Entry]) -> str:
    """Choose how weights are stored: in F16 where the base is, else in BF16."""
    present = {entry.dtype for entry in entries}
    return "F16" if "F16" in present and "BF16" not in present else "BF16"


def _write(path: Path, entries: Sequence[Entry], tensor: Callable[[str], Tensor]) -> None:
    with path.open("xb") as file:
        file.write(shards.header(entries))
        for entry in entries:
            flat = tensor(entry.name).contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def _config(config: dict[str, Any], dtype: str) -> bytes:
    # The older name where the base has it: who reads it may be older too.
    name = "torch_dtype" if "torch_dtype" in config else "dtype"
    document = config | {name: str(_DTYPES[dtype]).removeprefix("torch.")}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
