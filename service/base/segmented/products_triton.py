"""Products on a GPU: a map of tiles says which rows meet which slot's matrix.

The weights are read where they lie in the pool, in its dtype, and gradients are added there.
"""

from collections.abc import Sequence
from functools import cache

import torch
import triton
from torch import Tensor

from service.base.segmented.kernels.outer import add_outer_kernel
from service.base.segmented.kernels.times import times_kernel
from service.base.segmented.layout import tiles

_LOWEST = 16
"""Rows of a tile: what the hardware multiplies at once. Those that are not there are not read."""
_MOST_PARTS = 16
_FAST_MEMORY = 72 * 1024
"""Of a multiprocessor, in bytes, for what is on its way: small GPUs have 99 KiB."""


class Tiled:
    """Implements `Products` for any lengths and any slots.

    Grids depend on shapes alone, so that a CUDA graph can hold them. `tiles` are int32 `[n, 3]` on
    the device: slot, first row, rows, the last at most `height` and 0 where a tile is not in use.
    `segments` are the same with all rows of a slot together, for the gradients.
    """

    def __init__(self, tiles: Tensor, height: int, segments: Tensor) -> None:
        self._tiles = tiles
        self._height = height
        self._segments = segments

    def put(self, sizes: Sequence[int], slots: Sequence[int]) -> None:
        """Overwrite the tiles in place, for the next replay of a graph; no gradients then.

        Raises ValueError for more than there is room for.
        """
        used = tiles(sizes, slots, self._height)
        if len(used) > len(self._tiles):
            raise ValueError(f"{len(used)} tiles are more than {len(self._tiles)}")
        used += [(0, 0, 0)] * (len(self._tiles) - len(used))
        self._tiles.copy_(torch.tensor(used, dtype=torch.int32))

    def times(self, x: Tensor, w: Tensor, scaling: Tensor | None = None) -> Tensor:
        """See Products."""
        return _whole(self._in_parts(x, w, scaling), x.dtype)

    def add_times(self, out: Tensor, x: Tensor, w: Tensor) -> None:
        """See Products."""
        self._run(out.unsqueeze(0), x.unsqueeze(0), w, None, add=True)

    def add_through(
        self,
        out: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        scaling: Tensor,
        *,
        keep: bool = True,
    ) -> Tensor | None:
        """See Products."""
        hidden = self._in_parts(x, a, scaling)
        self._run(out.unsqueeze(0), hidden, b, None, add=True)
        return _whole(hidden, x.dtype) if keep else None

    def add_outer(self, into: Tensor, x: Tensor, y: Tensor) -> None:
        """See Products."""
        if x.shape[1] < y.shape[1]:
            x, y, into = y, x, into.mT
        x, y = _rows(x), _rows(y)
        width, columns = x.shape[1], y.shape[1]
        across = min(_padded(columns), 256)
        high = 64 if across < 128 else 32
        wide = min(_padded(width), 128 if across < 128 else 64)
        grid = (triton.cdiv(width, wide) * len(self._segments), triton.cdiv(columns, across))
        add_outer_kernel[grid](
            x,
            y,
            into,
            self._segments,
            width,
            columns,
            x.stride(0),
            y.stride(0),
            *into.stride(),
            ROWS=high,
            WIDTH=wide,
            COLUMNS=across,
            num_warps=8 if across >= 128 else 4,
            num_stages=_stages(high * (wide + across) * x.element_size()),
        )

    def _in_parts(self, x: Tensor, w: Tensor, scaling: Tensor | None) -> Tensor:
        """Give `[parts, rows, n]`: the sum is shared out where there are too few tiles for it."""
        parts = 1 if w.shape[2] > w.shape[1] else self._parts(w.shape[1], x.device)
        dtype = x.dtype if parts == 1 else torch.float32
        out = x.new_empty(parts, x.shape[0], w.shape[2], dtype=dtype)
        self._run(out, x.unsqueeze(0), w, scaling, add=False)
        return out

    def _parts(self, inner: int, device: torch.device) -> int:
        """Choose among how many programs to share a sum out; each sums at least 256 numbers."""
        programs = _processors(device) * (2 if self._height == _LOWEST else 1)
        most = min(_MOST_PARTS, inner // 256, programs // max(1, len(self._tiles)))
        return 1 << (max(1, most).bit_length() - 1)

    def _run(self, out: Tensor, x: Tensor, w: Tensor, scaling: Tensor | None, *, add: bool) -> None:
        x = _rows(x)
        inner, columns = w.shape[1:]
        deep, across = _blocks(self._height, inner, columns)
        share = triton.cdiv(triton.cdiv(inner, len(out)), deep) * deep
        size = self._height * deep * x.element_size() + deep * across * w.element_size()
        times_kernel[(len(self._tiles) * triton.cdiv(columns, across), len(out))](
            x,
            w,
            out,
            x if scaling is None else scaling,
            self._tiles,
            inner,
            columns,
            share,
            out.shape[1],
            x.stride(1),
            *w.stride(),
            out.stride(1),
            ROWS=self._height,
            INNER=deep,
            COLUMNS=across,
            PARTS=len(x),
            SCALED=scaling is not None,
            ADD=add,
            num_warps=8 if across >= 128 and self._height >= 64 else 4,
            num_stages=1 if share <= deep else _stages(size),
        )


def tiled(sizes: Sequence[int], slots: Sequence[int], device: torch.device) -> Tiled:
    """Lay a batch's tiles out, in one copy to the device."""
    height = min(64, max(_LOWEST, triton.next_power_of_2(sum(sizes) // max(1, len(sizes)))))
    small = tiles(sizes, slots, height)
    whole = tiles(sizes, slots, max(sizes, default=1))
    held = torch.tensor([*small, *whole], dtype=torch.int32).view(-1, 3).to(device)
    return Tiled(held[: len(small)], height, held[len(small) :])


def unused(rows: int, device: torch.device) -> Tiled:
    """Make room for any adapters in so many rows, one slot for each at most; `put` says which."""
    none = torch.zeros(rows, 3, dtype=torch.int32, device=device)
    return Tiled(none, _LOWEST, none[:0])


def _blocks(height: int, inner: int, columns: int) -> tuple[int, int]:
    """Choose how much of the sum and how many columns one step takes."""
    if columns > inner:
        return min(_padded(inner), 64), min(_padded(columns), 128)
    across = min(_padded(columns), 256)
    deep = {16: 256 if height == _LOWEST else 128, 32: 128, 64: 64}.get(across, 32)
    return min(_padded(inner), deep), across


def _whole(parts: Tensor, dtype: torch.dtype) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0).to(dtype)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _padded(size: int) -> int:
    return max(_LOWEST, triton.next_power_of_2(size))


def _stages(size: int) -> int:
    return max(2, min(4, _FAST_MEMORY // size))


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
