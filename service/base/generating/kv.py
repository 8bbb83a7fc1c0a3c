"""The keys and values of all sequences, in blocks that any of them can have."""

from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class KvShape(msgspec.Struct, frozen=True):
    """What a model's layers keep of each token."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype

    @property
    def bytes_each(self) -> int:
        """Memory for one token."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize


class KvCache:
    """`count` blocks of `size` tokens, and block 0 before them, which means nothing.

    Where something is read that belongs to no token, it is masked; but a masked NaN is still one.
    So what is handed out is cleared, and block 0 is only ever written to by rows of the bare base.
    """

    def __init__(self, shape: KvShape, *, count: int, size: int, device: torch.device) -> None:
        self.size = size
        # Left as it is: memory that is never used is then never touched.
        self.storage = torch.empty(
            (shape.layers, 2, count + 1, size, shape.heads, shape.width),
            dtype=shape.dtype,
            device=device,
        )
        self.clear([0])
        self.layers = [(keys, values) for keys, values in self.storage]
        """Of each layer, keys and values: `[blocks, size, heads, width]`."""
        self._rows = [(k.flatten(0, 1), v.flatten(0, 1)) for k, v in self.layers]

    def clear(self, blocks: Sequence[int]) -> None:
        """Make blocks zero."""
        if blocks:
            index = torch.tensor(blocks, device=self.storage.device)
            self.storage.index_fill_(2, index, 0)

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put tokens' `[T, heads, width]` into their places, `block * size + offset`."""
        into_keys, into_values = self._rows[layer]
        into_keys.index_copy_(0, places, keys)
        into_values.index_copy_(0, places, values)

    def gather(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Give the content of tables `[..., n]` as `[..., n * size, heads, width]`."""
        keys, values = (
            held.index_select(0, blocks.flatten()).view(*blocks.shape[:-1], -1, *held.shape[2:])
            for held in self.layers[layer]
        )
        return keys, values

    def tokens(self, layer: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Give the content of places: `[n, heads, width]`."""
        keys, values = (held.index_select(0, places) for held in self._rows[layer])
        return keys, values


def require_plain_attention(config: Any) -> None:
    """Raise ValueError for a model that keeps more of its past than keys and values."""
    layers = DynamicCache(config=config).layers
    if not layers or not all(isinstance(layer, DynamicLayer) for layer in layers):
        raise ValueError("only models whose layers are all attention layers can be served")
