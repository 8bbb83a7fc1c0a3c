"""Matrix products in which each adapter's rows meet that adapter's matrix.

`x` is `[rows, k]`, sorted by slot; `w` and `into` are `[capacity, k, n]`, a pool's view of all its
slots. One class for each way to do it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

MOST_GROUPS = 1023
"""What one `grouped_mm` takes."""


class Products(Protocol):
    """Each method is given exactly the rows that have an adapter."""

    def times(self, x: Tensor, w: Tensor, scaling: Tensor | None = None) -> Tensor:
        """Give `x w`, `[rows, n]`, each row times its number of `[rows, 1]` if there is one."""
        ...

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """Add `x w` to `out`."""
        ...

    def add_outer(self, into: Tensor, x: Tensor, y: Tensor) -> None:
        """Add `x^T y` over each adapter's rows to its part of `into`."""
        ...

    def add_through(
        self,
        out: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        scaling: Tensor,
        *,
        keep: bool = True,  # noqa: ARG002 - for those to whom it makes a difference
    ) -> Tensor | None:
        """Add `(scaling x a) b` to `out`; give what is in the brackets, if it is to be kept."""
        between = self.times(x, a, scaling)
        self.add_times(out, between, b)
        return between


class Present:
    """Which slots have rows, ascending, and their part of a pool's view."""

    def __init__(self, slots: Sequence[int], device: torch.device) -> None:
        start = slots[0] if slots else 0
        together = not slots or slots[-1] - start + 1 == len(slots)
        self._slice = slice(start, start + len(slots)) if together else None
        self._index = None if together else torch.tensor(slots, device=device)

    def take(self, held: Tensor, dtype: torch.dtype) -> Tensor:
        """Give their part of `[capacity, ...]` in the dtype to compute in."""
        if self._index is None:
            return held[self._slice].to(dtype)
        return held.index_select(0, self._index).to(dtype)

    def add(self, held: Tensor, more: Tensor) -> None:
        """Add to their part of `[capacity, ...]`."""
        if self._index is None:
            held[self._slice] += more
        else:
            held.index_add_(0, self._index, more.to(held.dtype))


class Looped(Products):
    """One adapter after another: for few, or of unequal lengths, on a CPU."""

    def __init__(self, sizes: Sequence[int], present: Present) -> None:
        self._sizes = list(sizes)
        self._present = present

    def times(self, x: Tensor, w: Tensor, scaling: Tensor | None = None) -> Tensor:
        """See Products."""
        w = self._present.take(w, x.dtype)
        out = x.new_empty(x.shape[0], w.shape[2])
        pieces = zip(out.split(self._sizes), x.split(self._sizes), w, strict=True)
        for into, rows, matrix in pieces:
            torch.mm(rows, matrix, out=into)
        return _scaled(out, scaling)

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        w = self._present.take(w, x.dtype)
        pieces = zip(out.split(self._sizes), x.split(self._sizes), w, strict=True)
        for into, rows, matrix in pieces:
            into.addmm_(rows, matrix)

    def add_outer(self, into: Tensor, x: Tensor, y: Tensor) -> None:
        """See Products."""
        out = x.new_empty(len(self._sizes), x.shape[1], y.shape[1])
        pieces = zip(out, x.split(self._sizes), y.split(self._sizes), strict=True)
        for matrix, rows, others in pieces:
            torch.mm(rows.t(), others, out=matrix)
        self._present.add(into, out)


class Batched(Products):
    """All adapters have equally many rows: one batched product."""

    def __init__(self, adapters: int, present: Present) -> None:
        self._adapters = adapters
        self._present = present

    def times(self, x: Tensor, w: Tensor, scaling: Tensor | None = None) -> Tensor:
        """See Products."""
        out = torch.bmm(self._split(x), self._present.take(w, x.dtype))
        return _scaled(out.view(x.shape[0], w.shape[2]), scaling)

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        self._split(out).baddbmm_(self._split(x), self._present.take(w, x.dtype))

    def add_outer(self, into: Tensor, x: Tensor, y: Tensor) -> None:
        """See Products."""
        self._present.add(into, torch.bmm(self._split(x).mT, self._split(y)))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.view(self._adapters, -1, rows.shape[1])


class Grouped(Products):
    """Any lengths, in one kernel, on a GPU without Triton. `ends` is int32 there.

    Rows past the last end would come back as uninitialised memory; no method is given any.
    """

    def __init__(
        self,
        ends: Tensor,
        present: Present,
        grouped_mm: Callable[..., Tensor] = functional.grouped_mm,
    ) -> None:
        if len(ends) > MOST_GROUPS:
            raise ValueError(f"at most {MOST_GROUPS} adapters fit in one batch")
        self._ends = ends
        self._present = present
        self._grouped_mm = grouped_mm

    def times(self, x: Tensor, w: Tensor, scaling: Tensor | None = None) -> Tensor:
        """See Products."""
        return _scaled(self._product(x, w), scaling)

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        out += self._product(x, w)

    def add_outer(self, into: Tensor, x: Tensor, y: Tensor) -> None:
        """See Products."""
        self._present.add(into, self._grouped_mm(x.t(), y, offs=self._ends))

    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        return self._grouped_mm(x, self._present.take(w, x.dtype), offs=self._ends)


def choose(sizes: Sequence[int], slots: Sequence[int], device: torch.device) -> Products:
    """Pick the quickest way for a batch."""
    if device.type == "cuda" and has_triton():
        from service.base.segmented.products_triton import tiled

        return tiled(sizes, slots, device)
    present = Present(slots, device)
    if device.type == "cuda":
        return Grouped(_ends(sizes, device), present)
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return Batched(len(sizes), present)
    return Looped(sizes, present)


@cache
def has_triton() -> bool:
    """Tell whether kernels can be written here; torch for a GPU brings it, for a CPU not."""
    return find_spec("triton") is not None


def _ends(sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(sizes, dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def _scaled(out: Tensor, scaling: Tensor | None) -> Tensor:
    return out if scaling is None else out.mul_(scaling)
