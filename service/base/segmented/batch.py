"""One batch as the layers see it: the layout, on the device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from service.base.segmented import products
from service.base.segmented.dropout import Dropout
from service.base.segmented.layout import Layout, ends, positions


class Batch:
    """What the layers share while one row of tokens goes through them."""

    def __init__(
        self,
        layout: Layout,
        *,
        scalings: Sequence[float],
        dropout: Dropout | None,
        layers: frozenset[str],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layout = layout
        self.adapted = sum(layout.sizes)
        """Tokens that have an adapter; they come first."""
        self.layers = layers
        """Layers that some adapter here targets."""
        self.dropout = dropout
        self.products = products.choose(layout.sizes, device)
        sizes = torch.tensor(layout.sizes, dtype=torch.int64)
        scaling = torch.tensor(scalings, dtype=dtype).repeat_interleave(sizes)
        self.scaling = scaling.unsqueeze(-1).to(device)
        self.lengths = layout.lengths
        self.longest = max(layout.lengths)
        self.boundaries = torch.tensor([0, *ends(layout.lengths)], dtype=torch.int32, device=device)
        self.positions = torch.tensor([positions(layout.lengths)], device=device)
        self._present = _present(layout.slots, device)

    def take(self, held: Tensor, dtype: torch.dtype) -> Tensor:
        """Give the present slots' part of `[capacity, ...]` in the dtype to compute in."""
        if isinstance(self._present, slice):
            return held[self._present].to(dtype)
        return held.index_select(0, self._present).to(dtype)

    def add(self, held: Tensor, more: Tensor) -> None:
        """Add to the present slots' part of `[capacity, ...]`."""
        if isinstance(self._present, slice):
            held[self._present] += more
        else:
            held.index_add_(0, self._present, more.to(held.dtype))


class Context:
    """Where all layers of one model find the batch in hand."""

    def __init__(self) -> None:
        self._batch: Batch | None = None

    @property
    def batch(self) -> Batch:
        """The batch. Raises RuntimeError outside of `running`: nobody is answered by mistake."""
        if self._batch is None:
            raise RuntimeError("no batch is running on this base")
        return self._batch

    @contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """Set the batch, for the forward and the backward pass."""
        if self._batch is not None:
            raise RuntimeError("a batch is running on this base already")
        self._batch = batch
        try:
            yield
        finally:
            self._batch = None


def _present(slots: Sequence[int], device: torch.device) -> slice | Tensor:
    if not slots or slots[-1] - slots[0] + 1 == len(slots):
        start = slots[0] if slots else 0
        return slice(start, start + len(slots))
    return torch.tensor(slots, device=device)
