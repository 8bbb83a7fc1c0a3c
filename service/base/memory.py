"""Would the base fit unquantised? Read off the weight files' headers and the machine."""

import json
import math
import os
from pathlib import Path
from typing import Any

from service.base.description import BaseDescription

MOST_OF_MEMORY = 0.5
"""Activations, adapters, caches and other processes need the rest."""


def plain_fits(description: BaseDescription, bytes_each: int, free: int | None = None) -> bool:
    """Tell whether the weights, at `bytes_each` a parameter, take at most half of `free` bytes.

    `free` is by default this machine's available main memory, or its container's limit.
    """
    free = available_memory() if free is None else free
    return fits(parameters(description.path), bytes_each, free)


def fits(count: int, bytes_each: int, free: int) -> bool:
    """Tell whether so many parameters leave enough of `free` bytes to be held plain. Pure."""
    return count * bytes_each <= MOST_OF_MEMORY * free


def parameters(folder: Path) -> int:
    """Count the parameters that the safetensors files in `folder` hold."""
    return sum(
        math.prod(tensor["shape"])
        for file in folder.glob("*.safetensors")
        for name, tensor in _header(file).items()
        if name != "__metadata__"
    )


def available_memory() -> int:
    """Give the bytes this process could still take."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdigit():
        return min(pages, int(most) - int(used.read_text()))
    return pages


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    return header
