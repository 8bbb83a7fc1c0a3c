"""The base's tensors as its files hold them, mapped and not loaded: a page is read when used."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from service.base.description import BaseModelError
from service.base.merging.shards import INDEX, Entry

WHOLE = "model.safetensors"


class BaseWeights:
    """The files that transformers would load, one tensor at a time."""

    def __init__(self, folder: Path) -> None:
        """Read the headers. Raises BaseModelError."""
        try:
            opened = [safe_open(folder / name, "pt") for name in _files(folder)]
        except (OSError, SafetensorError) as fault:
            raise BaseModelError(f"the base's weights cannot be read: {fault}") from None
        self._files: dict[str, Any] = {name: file for file in opened for name in file.keys()}  # noqa: SIM118

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """What each tensor is, by its name, in order."""
        return {name: self._entry(name) for name in sorted(self._files)}

    def read(self, name: str) -> Tensor:
        """Give a tensor that still lies in its file: it must not be written to."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def _entry(self, name: str) -> Entry:
        part = self._files[name].get_slice(name)
        return Entry(name, part.get_dtype(), tuple(part.get_shape()))


def _files(folder: Path) -> list[str]:
    # In transformers' own order: a folder may hold the same weights twice.
    if (folder / WHOLE).is_file():
        return [WHOLE]
    found = msgspec.json.decode((folder / INDEX).read_bytes(), type=dict[str, Any])
    return sorted(set(found["weight_map"].values()))
