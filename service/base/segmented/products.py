"""Matrix products in which each adapter's rows meet that adapter's matrix.

`x` is `[rows, k]`, sorted by adapter; `w` is `[adapters, k, n]`. One class for each way to do it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

MOST_GROUPS = 1023
"""What one `grouped_mm` takes."""


class Products(Protocol):
    """Each method is given exactly the rows that have an adapter."""

    def times(self, x: Tensor, w: Tensor) -> Tensor:
        """Give `x w`, `[rows, n]`."""

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """Add `x w` to `out`."""

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """Give `x^T y` over each adapter's rows, `[adapters, k, n]`."""


class Looped:
    """One adapter after another: for few, or of unequal lengths, on a CPU."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)

    def times(self, x: Tensor, w: Tensor) -> Tensor:
        """See Products."""
        out = x.new_empty(x.shape[0], w.shape[2])
        pieces = zip(out.split(self._sizes), x.split(self._sizes), w, strict=True)
        for into, rows, matrix in pieces:
            torch.mm(rows, matrix, out=into)
        return out

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        pieces = zip(out.split(self._sizes), x.split(self._sizes), w, strict=True)
        for into, rows, matrix in pieces:
            into.addmm_(rows, matrix)

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """See Products."""
        out = x.new_empty(len(self._sizes), x.shape[1], y.shape[1])
        pieces = zip(out, x.split(self._sizes), y.split(self._sizes), strict=True)
        for into, rows, others in pieces:
            torch.mm(rows.t(), others, out=into)
        return out


class Batched:
    """All adapters have equally many rows: one batched product."""

    def __init__(self, adapters: int) -> None:
        self._adapters = adapters

    def times(self, x: Tensor, w: Tensor) -> Tensor:
        """See Products."""
        return torch.bmm(self._split(x), w).view(x.shape[0], w.shape[2])

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        self._split(out).baddbmm_(self._split(x), w)

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """See Products."""
        return torch.bmm(self._split(x).mT, self._split(y))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(self._adapters, -1, rows.shape[1])


class Grouped:
    """Any lengths, in one kernel, on a GPU. `ends` is int32 there.

    Rows past the last end would come back as uninitialised memory; no method is given any.
    """

    def __init__(
        self, ends: Tensor, grouped_mm: Callable[..., Tensor] = functional.grouped_mm
    ) -> None:
        if len(ends) > MOST_GROUPS:
            raise ValueError(f"at most {MOST_GROUPS} adapters fit in one batch")
        self._ends = ends
        self._grouped_mm = grouped_mm

    def times(self, x: Tensor, w: Tensor) -> Tensor:
        """See Products."""
        return self._grouped_mm(x, w, offs=self._ends)

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        out += self._grouped_mm(x, w, offs=self._ends)

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """See Products."""
        return self._grouped_mm(x.t(), y, offs=self._ends)


def choose(sizes: Sequence[int], device: torch.device) -> Products:
    """Pick the quickest way for a batch."""
    if device.type == "cuda":
        return Grouped(_ends(sizes, device))
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return Batched(len(sizes))
    return Looped(sizes)


def _ends(sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(sizes, dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
