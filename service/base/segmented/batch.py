"""One batch as the layers see it: the layout, on the device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from service.base.segmented import products
from service.base.segmented.attention import Attend
from service.base.segmented.dropout import Dropout
from service.base.segmented.layout import Layout
from service.base.segmented.pool import Pool


def go_on() -> None:
    """Let nobody else have a turn."""


class Pass(Protocol):
    """What the layers read of a batch while its tokens go through them."""

    tokens: int
    adapted: int
    layers: frozenset[str]
    positions: Tensor
    scaling: Tensor
    products: products.Products
    attend: Attend
    dropout: Dropout | None
    pause: Callable[[], None]

    def weights(self, layer: str) -> tuple[Tensor, Tensor]:
        """View a layer's A and B of all slots; the products know which of them are present."""
        ...


class Batch:
    """Implements `Pass`: what the layers share while one row of tokens goes through them.

    `pause` is called before each layer's products, on the way there and back: somebody else may
    use the base then, with a batch of their own.
    """

    def __init__(
        self,
        layout: Layout,
        pool: Pool,
        *,
        scalings: Sequence[float],
        layers: frozenset[str],
        positions: Tensor,
        attend: Attend,
        dropout: Dropout | None = None,
        pause: Callable[[], None] = go_on,
    ) -> None:
        self.layout = layout
        self.tokens = layout.tokens
        """How long the row is."""
        self.adapted = sum(layout.sizes)
        """Tokens that have an adapter; they come first."""
        self.layers = layers
        """Layers that some adapter here targets."""
        self.positions = positions
        self.attend = attend
        self.dropout = dropout
        self.pause = pause
        self.products = products.choose(layout.sizes, layout.slots, pool.device)
        sizes = torch.tensor(layout.sizes, dtype=torch.int64)
        scaling = torch.tensor(scalings, dtype=pool.dtype).repeat_interleave(sizes)
        self.scaling = scaling.unsqueeze(-1).to(pool.device)
        self._pool = pool

    def weights(self, layer: str) -> tuple[Tensor, Tensor]:
        """See Pass."""
        return self._pool.layer(layer)

    def gradients(self, layer: str) -> tuple[Tensor, Tensor]:
        """View the gradients of these, likewise."""
        gradients = self._pool.gradients
        return self._pool.a(gradients, layer), self._pool.b(gradients, layer)


class Context:
    """Where all layers of one model find the batch in hand."""

    def __init__(self) -> None:
        self._batch: Pass | None = None

    @property
    def batch(self) -> Pass:
        """The batch. Raises RuntimeError outside of `running`: nobody is answered by mistake."""
        if self._batch is None:
            raise RuntimeError("no batch is running on this base")
        return self._batch

    @contextmanager
    def running(self, batch: Pass) -> Iterator[None]:
        """Set the batch, for the forward and the backward pass.

        One that runs already waits meanwhile: it is set again afterwards.
        """
        before, self._batch = self._batch, batch
        try:
            yield
        finally:
            self._batch = before
