"""Attention of one step's tokens to their sequences' past, which lies in blocks.

Rows with one new token (most, most of the time) go together, and so do, on a GPU, the chunks of
prompts. Indices and masks are made once for a step, not in each layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from service.base.generating.kv import KvCache
from service.base.segmented.attention import causal_on_gpu
from service.base.segmented.layout import ends

_MOST_PADDING = 1.5
"""How many times the blocks of groups apart may be gathered for all rows together."""


class Span(msgspec.Struct, frozen=True):
    """New tokens of one sequence in the row of tokens."""

    begin: int
    count: int
    length: int
    """The sequence's tokens, with these."""
    blocks: Sequence[int]
    """Its blocks, in order."""

    def places(self, size: int, start: int = 0) -> list[int]:
        """Give where its tokens from `start` on lie in the cache."""
        blocks = self.blocks
        return [blocks[at // size] * size + at % size for at in range(start, self.length)]


class Singles(msgspec.Struct, frozen=True):
    """Rows with one new token."""

    rows: Tensor
    """Where they are in the row of tokens, `[n]`."""
    tables: Tensor
    """Their blocks, `[n, blocks]`, filled up with 0."""
    lengths: Tensor
    """Their sequences' tokens, `[n]`."""


class PagedAttention(ABC):
    """Implements `Attend` for one step. `places` is where new keys and values go, `[T]`."""

    def __init__(
        self, cache: KvCache, places: Tensor, singles: Singles, chunks: Sequence[Span]
    ) -> None:
        self._cache = cache
        self._places = places
        self._singles = singles
        self._chunks = chunks

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scaling: float | None,
        window: int | None,
    ) -> Tensor:
        """Keep the new keys and values, and attend."""
        self._cache.write(layer, self._places, k, v)
        if not self._chunks:
            return self._attend_singles(layer, q, scaling, window)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        self._attend_chunks(out, layer, q, scaling, window)
        if len(rows := self._singles.rows):
            out[rows] = self._attend_singles(layer, q[rows], scaling, window)
        return out

    @abstractmethod
    def renew(self) -> None:
        """Forget what was worked out from tables and lengths: they hold another step's now."""

    @abstractmethod
    def _attend_singles(
        self, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> Tensor: ...

    @abstractmethod
    def _attend_chunks(
        self, out: Tensor, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> None: ...


class PagedOnCpu(PagedAttention):
    """Gathers the past, and masks what is not one's own.

    Singles are padded to the longest; where that would be much, those of like length go together.
    """

    def __init__(
        self, cache: KvCache, places: Tensor, singles: Singles, chunks: Sequence[Span]
    ) -> None:
        super().__init__(cache, places, singles, chunks)
        self._blocks = [torch.tensor(span.blocks) for span in chunks]
        self._masks: dict[tuple[object, int | None], Tensor] = {}
        self._groups = self._grouped()

    def renew(self) -> None:
        """See PagedAttention."""
        self._masks.clear()
        self._groups = self._grouped()

    def _attend_singles(
        self, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        if len(self._groups) == 1:
            return self._attend_group(layer, q, self._groups[0], scaling, window)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for group in self._groups:
            part = q.index_select(0, group.rows)
            out[group.rows] = self._attend_group(layer, part, group, scaling, window)
        return out

    def _attend_group(
        self, layer: int, q: Tensor, group: Singles, scaling: float | None, window: int | None
    ) -> Tensor:
        keys, values = self._cache.gather(layer, group.tables)
        make = partial(_of_singles, group.lengths, keys.shape[1])
        mask = self._mask(id(group), window, make)
        return _attend(q.unsqueeze(1), keys, values, scaling, mask).squeeze(1)

    def _grouped(self) -> list[Singles]:
        """Part the singles by the power of two that their blocks come to, if it spares much."""
        lengths, tables = self._singles.lengths, self._singles.tables
        blocks = [-(-length // self._cache.size) for length in lengths.tolist()]
        alike: dict[int, list[int]] = {}
        for row, count in enumerate(blocks):
            alike.setdefault((count - 1).bit_length(), []).append(row)
        apart = sum(len(rows) * max(blocks[row] for row in rows) for rows in alike.values())
        if len(blocks) * max(blocks, default=0) <= _MOST_PADDING * apart:
            alike = {0: list(range(len(blocks)))} if blocks else {}
        groups = []
        for rows in alike.values():
            index, longest = torch.tensor(rows, dtype=torch.int64), max(blocks[r] for r in rows)
            groups.append(Singles(index, tables[index, :longest], lengths[index]))
        return groups

    def _attend_chunks(
        self, out: Tensor, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> None:
        for span, blocks in zip(self._chunks, self._blocks, strict=True):
            keys, values = self._cache.gather(layer, blocks)
            mask = self._mask(span.begin, window, partial(_of_chunk, span))
            rows = slice(span.begin, span.begin + span.count)
            keys, values = (held[: span.length].unsqueeze(0) for held in (keys, values))
            out[rows] = _attend(q[rows].unsqueeze(0), keys, values, scaling, mask)[0]

    def _mask(
        self, what: object, window: int | None, make: Callable[[int | None], Tensor]
    ) -> Tensor:
        if (what, window) not in self._masks:
            self._masks[what, window] = make(window)
        return self._masks[what, window]


class PagedOnGpu(PagedAttention):
    """Reads singles' past where it lies; gathers that of chunks."""

    def __init__(
        self, cache: KvCache, places: Tensor, singles: Singles, chunks: Sequence[Span]
    ) -> None:
        super().__init__(cache, places, singles, chunks)
        # Triton comes with the torch of a GPU machine only.
        from service.base.generating.paged_triton import paged_decode

        self._paged_decode = paged_decode
        if chunks:
            rows = [at for span in chunks for at in range(span.begin, span.begin + span.count)]
            past = [place for span in chunks for place in span.places(cache.size)]
            self._rows = torch.tensor(rows, device=places.device)
            self._past = torch.tensor(past, device=places.device)
            self._new = _bounds([span.count for span in chunks], places.device)
            self._all = _bounds([span.length for span in chunks], places.device)
            self._most_new = max(span.count for span in chunks)
            self._most = max(span.length for span in chunks)

    def renew(self) -> None:
        """Do nothing: the kernels read tables and lengths themselves."""

    def _attend_singles(
        self, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> Tensor:
        keys, values = self._cache.layers[layer]
        tables, lengths = self._singles.tables, self._singles.lengths
        return self._paged_decode(q, keys, values, tables, lengths, scaling, window)

    def _attend_chunks(
        self, out: Tensor, layer: int, q: Tensor, scaling: float | None, window: int | None
    ) -> None:
        keys, values = self._cache.tokens(layer, self._past)
        out[self._rows] = causal_on_gpu(
            q[self._rows],
            keys,
            values,
            (self._new, self._all),
            (self._most_new, self._most),
            scaling,
            window,
        )


def paged(
    cache: KvCache, places: Tensor, singles: Singles, chunks: Sequence[Span] = ()
) -> PagedAttention:
    """Make a step's attention for the device that the cache is on."""
    kind = PagedOnGpu if cache.storage.is_cuda else PagedOnCpu
    return kind(cache, places, singles, chunks)


def paged_spans(cache: KvCache, spans: Sequence[Span], tables: Tensor) -> PagedAttention:
    """Make it for new tokens as they lie; `tables` are the blocks of the spans of one token."""
    device = cache.storage.device
    places = [p for span in spans for p in span.places(cache.size, span.length - span.count)]
    singles = [span for span in spans if span.count == 1]
    return paged(
        cache,
        torch.tensor(places, device=device),
        Singles(
            torch.tensor([span.begin for span in singles], dtype=torch.int64, device=device),
            tables.to(device),
            torch.tensor([span.length for span in singles], dtype=torch.int64, device=device),
        ),
        [span for span in spans if span.count > 1],
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, mask: Tensor) -> Tensor:
    """Attend in `[rows, tokens, heads, width]`; the mask is True for what is seen."""
    shared = q.shape[2] > k.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scaling, enable_gqa=shared
    )
    return out.transpose(1, 2)


def _of_singles(lengths: Tensor, most: int, window: int | None) -> Tensor:
    at, ends = torch.arange(most), lengths.unsqueeze(-1)
    seen = at < ends
    if window is not None:
        seen &= at >= ends - window
    return seen[:, None, None]


def _of_chunk(span: Span, window: int | None) -> Tensor:
    at = torch.arange(span.length)
    behind = at[-span.count :, None] - at
    seen = behind >= 0
    return seen if window is None else seen & (behind < window)


def _bounds(counts: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *ends(counts)], dtype=torch.int32, device=device)
