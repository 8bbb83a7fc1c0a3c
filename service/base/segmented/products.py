"""Matrix products in which each adapter's rows meet that adapter's matrix.

`x` is `[rows, k]`, sorted by slot; `w` and `into` are `[capacity, k, n]`, a pool's view of all its
slots. One class for each way to do it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

MOST_GROUPS = 1023
"""What one `grouped_mm` takes."""
_MOST_PADDED = 8
"""Rows of an adapter above which a product of its own is cheap."""


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
        self.together = not slots or slots[-1] - start + 1 == len(slots)
        self._slice = slice(start, start + len(slots)) if self.together else None
        self._index = None if self.together else torch.tensor(slots, device=device)

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


class Padded(Products):
    """Adapters with few rows as if all had `most`, the others one after another.

    For passes without gradients on a CPU, where many small products cost more than what they
    multiply, and copying weights that do not lie together costs more than passing over the others.
    """

    def __init__(self, sizes: Sequence[int], slots: Sequence[int], most: int) -> None:
        self._most = most
        self._span = slice(slots[0], slots[-1] + 1)
        self._adapters = slots[-1] + 1 - slots[0]
        self._long: list[tuple[int, int, int]] = []
        rows: list[int] = []
        places: list[int] = []
        for slot, size, end in zip(slots, sizes, accumulate(sizes), strict=True):
            if size > most:
                self._long.append((slot, end - size, end))
            else:
                place = (slot - slots[0]) * most
                rows += range(end - size, end)
                places += range(place, place + size)
        self._rows = torch.tensor(rows) if rows else None
        self._places = torch.tensor(places)

    def times(self, x: Tensor, w: Tensor, scaling: Tensor | None = None) -> Tensor:
        """See Products."""
        out = x.new_empty(x.shape[0], w.shape[2])
        for slot, start, end in self._long:
            torch.mm(x[start:end], w[slot].to(x.dtype), out=out[start:end])
        if self._rows is not None:
            out.index_copy_(0, self._rows, self._few(x, w, self._rows))
        return _scaled(out, scaling)

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        for slot, start, end in self._long:
            out[start:end].addmm_(x[start:end], w[slot].to(x.dtype))
        if self._rows is not None:
            out.index_add_(0, self._rows, self._few(x, w, self._rows))

    def add_outer(self, into: Tensor, x: Tensor, y: Tensor) -> None:
        """Raise: `choose` gives this to passes without gradients only."""
        raise NotImplementedError("padded segments have no gradients")

    def _few(self, x: Tensor, w: Tensor, rows: Tensor) -> Tensor:
        spread = x.new_zeros(self._adapters * self._most, x.shape[1])
        spread.index_copy_(0, self._places, x.index_select(0, rows))
        spread = spread.view(self._adapters, self._most, -1)
        products = torch.bmm(spread, w[self._span].to(x.dtype))
        return products.flatten(0, 1).index_select(0, self._places)


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
    equal = len(sizes) > 1 and len(set(sizes)) == 1
    if equal and (present.together or torch.is_grad_enabled()):
        return Batched(len(sizes), present)
    if torch.is_grad_enabled() or len(sizes) < 2:
        return Looped(sizes, present)
    return Padded(sizes, slots, _usual(sizes, slots[-1] + 1 - slots[0]))


def _usual(sizes: Sequence[int], span: int) -> int:
    """Give a number of rows to pad to; 0 if padding would cost more than it spares.

    The matrices of a whole span of slots are read then, also of those with more rows, or none.
    """
    most = sorted(sizes)[len(sizes) * 3 // 4]
    few = sum(size <= most for size in sizes)
    return most if most <= _MOST_PADDED and 4 * (span - few) <= few else 0


@cache
def has_triton() -> bool:
    """Tell whether kernels can be written here; torch for a GPU brings it, for a CPU not."""
    return find_spec("triton") is not None


def _ends(sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(sizes, dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def _scaled(out: Tensor, scaling: Tensor | None) -> Tensor:
    return out if scaling is None else out.mul_(scaling)
