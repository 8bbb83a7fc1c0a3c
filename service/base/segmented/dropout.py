"""Dropout masks that are a function of a seed, the layer and the token's place after the seed.

A counter-based hash instead of a generator: one draw for all adapters at once, the same on every
device, whoever else is in the batch, and drawn again in the backward pass instead of kept.
It costs about six operations per number: one fused kernel on CUDA, and on a CPU some rows at a
time, while they are in its cache.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from service.base.segmented.layout import Part, positions

_GOLDEN = 0x9E3779B9
_LOWEST = -(2**31)
_MIX = 0x846CA68B - 2**32
_NUMBERS_AT_ONCE = 2**17
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of as many bytes as a number has."""


class Dropout:
    """The masks of one batch: `rates` are the parts', `layers` how many there are."""

    def __init__(
        self,
        parts: Sequence[Part],
        rates: Sequence[float],
        layers: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        sizes = torch.tensor([part.tokens for part in parts])
        tokens = torch.cat([_token_keys(part) for part in parts]).to(device)
        names = _scramble(_wrap(torch.arange(1, layers + 1) * _GOLDEN)).to(device)
        self._rows = (_scramble(names[:, None] ^ tokens[None, :]) | 1).unsqueeze(-1)
        self._bounds = _spread(
            [_LOWEST + int(p * 2**32) for p in rates], sizes, torch.int32, device
        )
        self._factors = _spread([1 / (1 - rate) for rate in rates], sizes, dtype, device)
        self._columns: dict[int, Tensor] = {}
        self._device = device

    def apply(self, x: Tensor, layer: int) -> Tensor:
        """Drop from `x` what this layer's masks say, and scale the rest; give a new tensor."""
        run = _fused() if x.is_cuda else dropped_on_cpu
        columns = self._column_keys(x.shape[1])
        return run(x, self._rows[layer], columns, self._bounds, self._factors)

    def _column_keys(self, count: int) -> Tensor:
        if count not in self._columns:
            keys = _scramble(_wrap(torch.arange(count) * 0x85EBCA6B + 0x27D4EB2F))
            self._columns[count] = (keys | 1).to(self._device)
        return self._columns[count]


def dropped(x: Tensor, rows: Tensor, columns: Tensor, bounds: Tensor, factors: Tensor) -> Tensor:
    """Zero where the hash of row and column key lies under the row's bound, scale the rest."""
    keys = rows * columns
    keys ^= keys >> 15
    keys *= _MIX
    return (x * factors.to(x.dtype)).masked_fill_(keys < bounds, 0)


def dropped_on_cpu(
    x: Tensor, rows: Tensor, columns: Tensor, bounds: Tensor, factors: Tensor
) -> Tensor:
    """Give the same bits: booleans are what is slow on a CPU, so all bits or none are kept."""
    out = x * factors.to(x.dtype)
    bits = out.view(_BITS[out.itemsize])
    at_once = max(1, _NUMBERS_AT_ONCE // len(columns))
    pieces = zip(bits.split(at_once), rows.split(at_once), bounds.split(at_once), strict=True)
    for piece, its_rows, its_bounds in pieces:
        keys = its_rows * columns
        keys ^= keys >> 15
        keys *= _MIX
        piece &= keys.ge_(its_bounds).neg_().to(bits.dtype)
    return out


@cache
def _fused() -> Callable[..., Tensor]:
    return torch.compile(dropped, dynamic=True)


def _scramble(keys: Tensor) -> Tensor:
    # A 32-bit finaliser without its last shift: only the high bits are compared.
    keys = (keys ^ (keys >> 16)) * 0x7FEB352D
    return (keys ^ (keys >> 15)) * _MIX


def _token_keys(part: Part) -> Tensor:
    seeds, lengths = part.dropout_seed or 0, part.lengths
    if isinstance(seeds, int):
        seeds, lengths = (seeds,), (part.tokens,)
    halves = [[seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF] for seed in seeds]
    starts = _scramble(_wrap(torch.tensor(halves)))
    firsts = (starts[:, 0] ^ (starts[:, 1] * 3)).long().repeat_interleave(torch.tensor(lengths))
    return _scramble(_wrap(torch.tensor(positions(lengths)) * _GOLDEN + firsts))


def _wrap(numbers: Tensor) -> Tensor:
    return ((numbers + 2**31) % 2**32 - 2**31).to(torch.int32)


def _spread(
    values: Sequence[float], sizes: Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor(values, dtype=dtype).repeat_interleave(sizes).unsqueeze(-1).to(device)
