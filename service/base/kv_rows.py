"""The key-value cache of a left-padded batch, whose rows come and go between steps."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_BATCH, _TIME = 0, 1


class KvRows:
    """Rows of equal width: `mask` [rows, width] is 0 where a row is padded on its left.

    Every row's last column is real, so the next token of all rows goes into the same column.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor) -> None:
        self.cache = cache
        self.mask = mask

    @classmethod
    def empty(cls, device: torch.device) -> "KvRows":
        """Make a batch of no rows."""
        # Without a config every layer keeps all of its past, sliding windows too: those are then
        # a matter of the mask, and rows of different age can be put side by side.
        return cls(DynamicCache(), torch.zeros(0, 0, dtype=torch.long, device=device))

    def __len__(self) -> int:
        return self.mask.shape[_BATCH]

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each row, which is also the position of its next one."""
        return self.mask.sum(_TIME)

    def grow(self) -> None:
        """Make room in the mask for one more real token in each row."""
        self.mask = pad(self.mask, (0, 1), value=1)

    def select(self, rows: Sequence[int]) -> "KvRows":
        """Keep these rows, in this order (repeats allowed), and no column that is all padding."""
        if not rows:
            return KvRows.empty(self.mask.device)
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask.index_select(_BATCH, index)
        start = int(mask.argmax(_TIME).min())
        states = (
            (layer.keys[index, :, start:], layer.values[index, :, start:])
            for layer in self.cache.layers
        )
        return KvRows(_cache(states), mask[:, start:])

    def join(self, other: "KvRows") -> "KvRows":
        """Put two batches into one, these rows first."""
        if not len(self) or not len(other):
            return self if len(self) else other
        width = max(self.mask.shape[_TIME], other.mask.shape[_TIME])
        states = (
            (
                torch.cat([_widen(mine.keys, width), _widen(theirs.keys, width)]),
                torch.cat([_widen(mine.values, width), _widen(theirs.values, width)]),
            )
            for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True)
        )
        masks = [pad(rows.mask, (width - rows.mask.shape[_TIME], 0)) for rows in (self, other)]
        return KvRows(_cache(states), torch.cat(masks))


def _cache(states: Iterable[tuple[Tensor, Tensor]]) -> DynamicCache:
    cache = DynamicCache()
    for keys, values in states:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        # Given over as they are: `update` would copy them once more.
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _widen(states: Tensor, width: int) -> Tensor:
    return pad(states, (0, 0, width - states.shape[-2], 0))
