"""Where each adapter's and each example's tokens lie in one flat row. Pure."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec


class Part(msgspec.Struct, frozen=True):
    """One adapter's examples in a batch."""

    slot: int | None
    """None is the bare base."""
    lengths: tuple[int, ...]
    """Tokens of each example."""
    dropout_seed: int | tuple[int, ...] | None = None
    """None is no dropout. Where it is equal, so are the masks.

    With one for each example, an example's masks do not depend on which others are in the part.
    """

    @property
    def tokens(self) -> int:
        """How long the part is."""
        return sum(self.lengths)


class Layout(msgspec.Struct, frozen=True):
    """One row of tokens: parts sorted by slot, the bare base last."""

    parts: tuple[Part, ...]

    @property
    def adapted(self) -> tuple[Part, ...]:
        """The parts that have an adapter."""
        return tuple(part for part in self.parts if part.slot is not None)

    @property
    def slots(self) -> tuple[int, ...]:
        """Which adapters are present, ascending."""
        return tuple(part.slot for part in self.parts if part.slot is not None)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each adapter that is present."""
        return tuple(part.tokens for part in self.adapted)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each example, in the order of the row."""
        return tuple(length for part in self.parts for length in part.lengths)

    @property
    def tokens(self) -> int:
        """How long the row is."""
        return sum(self.lengths)


def lay_out(parts: Iterable[Part]) -> Layout:
    """Sort the parts. Raises ValueError for a slot that comes twice and for empty examples."""
    ordered = sorted(parts, key=lambda part: (part.slot is None, part.slot))
    slots = [part.slot for part in ordered]
    if len(set(slots)) < len(slots):
        raise ValueError("a slot can come only once in a batch")
    if any(slot is not None and slot < 0 for slot in slots):
        raise ValueError("a slot is not negative")
    seeded = [part for part in ordered if isinstance(part.dropout_seed, tuple)]
    if any(len(part.dropout_seed) != len(part.lengths) for part in seeded):  # type: ignore[arg-type]
        raise ValueError("a part has one dropout seed, or one for each example")
    if not ordered or any(min(part.lengths, default=0) < 1 for part in ordered):
        raise ValueError("a batch and each of its examples need at least one token")
    return Layout(tuple(ordered))


def tiles(sizes: Sequence[int], slots: Sequence[int], height: int) -> list[tuple[int, int, int]]:
    """Cut each slot's rows into tiles of at most `height`: its slot, first row, rows."""
    cut, first = [], 0
    for size, slot in zip(sizes, slots, strict=True):
        cut += [
            (slot, first + start, min(height, size - start)) for start in range(0, size, height)
        ]
        first += size
    return cut


def ends(sizes: Sequence[int]) -> list[int]:
    """Give the place after each piece's last token."""
    return list(accumulate(sizes))


def positions(lengths: Sequence[int]) -> list[int]:
    """Count each example's tokens from 0."""
    return [place for length in lengths for place in range(length)]


def loss_rows(
    lengths: Sequence[int], input_ids: Sequence[int], loss_mask: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Find the places that predict a masked-in token of their own example, and those tokens."""
    rows, targets, start = [], [], 0
    for length in lengths:
        for place in range(start + 1, start + length):
            if loss_mask[place]:
                rows.append(place - 1)
                targets.append(input_ids[place])
        start += length
    return rows, targets
