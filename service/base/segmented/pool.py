"""The memory of all slots: one row of numbers per slot, one row layout for all.

Weights, gradients and moments are `[capacity, P]` buffers, so that the optimizer and clearing work
on whole rows, and each layer's A and B are views into them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

MULTIPLE = 8
"""What `grouped_mm` wants ranks and dimensions to be a multiple of, in bf16."""


class Pool:
    """`shapes` gives (in, out) features by layer name; `rank` is the most that a slot can have."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        *,
        capacity: int,
        rank: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shapes = dict(shapes)
        self.capacity = capacity
        self.most_rank = rank
        self.padded_rank = -(-rank // MULTIPLE) * MULTIPLE
        self.device = device
        self.dtype = dtype
        self._starts: dict[str, int] = {}
        self.row = 0
        for name, (features_in, features_out) in self.shapes.items():
            self._starts[name] = self.row
            self.row += (features_in + features_out) * self.padded_rank
        self._buffers: dict[str, Tensor] = {}
        self._layers: dict[str, tuple[Tensor, Tensor]] = {}
        self.steps = torch.zeros(capacity, dtype=torch.float32, device=device)
        """Optimizer steps that each slot has taken."""

    def buffer(self, name: str) -> Tensor:
        """Give a `[capacity, P]` buffer; it is made of zeros when first asked for."""
        if name not in self._buffers:
            shape = (self.capacity, self.row)
            self._buffers[name] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self._buffers[name]

    @property
    def buffers(self) -> tuple[str, ...]:
        """The names of those that were asked for."""
        return tuple(self._buffers)

    @property
    def weights(self) -> Tensor:
        """The adapters."""
        return self.buffer("weights")

    @property
    def gradients(self) -> Tensor:
        """Summed since each slot's last step."""
        return self.buffer("gradients")

    def layer(self, layer: str) -> tuple[Tensor, Tensor]:
        """View a layer's weights of all slots, A and B: the same views each time."""
        if layer not in self._layers:
            self._layers[layer] = self.a(self.weights, layer), self.b(self.weights, layer)
        return self._layers[layer]

    def a(self, buffer: Tensor, layer: str) -> Tensor:
        """View a layer's A of all slots: `[capacity, in, padded rank]`."""
        features_in, _ = self.shapes[layer]
        return self._view(buffer, self._starts[layer], features_in, self.padded_rank)

    def b(self, buffer: Tensor, layer: str) -> Tensor:
        """View a layer's B of all slots: `[capacity, padded rank, out]`."""
        features_in, features_out = self.shapes[layer]
        start = self._starts[layer] + features_in * self.padded_rank
        return self._view(buffer, start, self.padded_rank, features_out)

    def clear(self, slot: int) -> None:
        """Forget everything of a slot, moments included: the next one is another tenant's."""
        for buffer in self._buffers.values():
            buffer[slot].zero_()
        self.steps[slot] = 0

    def _view(self, buffer: Tensor, start: int, rows: int, columns: int) -> Tensor:
        return buffer[:, start : start + rows * columns].view(self.capacity, rows, columns)


def named(layer: str, target: str) -> bool:
    """Tell whether a target means a layer, by PEFT's rule: its name's last parts."""
    return layer == target or layer.endswith(f".{target}")
