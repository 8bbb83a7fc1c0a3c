"""How parts are laid out in a row, and what is learnt from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.segmented.layout import Part, ends, lay_out, loss_rows, positions, tiles
from tests.strategies import rows_with_loss_masks, segment_parts


@given(segment_parts())
def test_every_token_is_laid_out_once_sorted_by_slot_and_the_bare_base_last(parts) -> None:
    layout = lay_out(parts)
    assert sorted(map(repr, layout.parts)) == sorted(map(repr, parts))
    assert list(layout.slots) == sorted(p.slot for p in parts if p.slot is not None)
    assert all(part.slot is None for part in layout.parts[len(layout.slots) :])
    assert layout.tokens == sum(p.tokens for p in parts) == sum(layout.lengths)
    assert ends(layout.sizes) == [sum(layout.sizes[: i + 1]) for i in range(len(layout.sizes))]


@given(segment_parts())
def test_positions_restart_with_each_example(parts) -> None:
    lengths = lay_out(parts).lengths
    places = positions(lengths)
    starts = [0, *ends(lengths)][:-1]
    assert len(places) == sum(lengths)
    assert [i for i, place in enumerate(places) if place == 0] == starts


@given(segment_parts(), st.integers(1, 9))
def test_tiles_hold_each_adapted_row_once_with_its_own_slot(parts, height) -> None:
    layout = lay_out(parts)
    cut = tiles(layout.sizes, layout.slots, height)
    held = [(first + i, slot) for slot, first, rows in cut for i in range(rows)]
    owners = [s for s, n in zip(layout.slots, layout.sizes, strict=True) for _ in range(n)]
    assert held == list(enumerate(owners))
    assert all(0 < rows <= height for _, _, rows in cut)
    assert len(cut) == sum(-(-size // height) for size in layout.sizes)


@given(rows_with_loss_masks())
def test_a_loss_token_is_predicted_from_its_own_example_only(drawn) -> None:
    lengths, ids, mask = drawn
    rows, targets = loss_rows(lengths, ids, mask)
    starts = {0, *ends(lengths)}
    learnt = [place for place in range(len(ids)) if mask[place] and place not in starts]
    assert [row + 1 for row in rows] == learnt
    assert targets == [ids[place] for place in learnt]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [Part(1, ())],
        [Part(1, (3, 0))],
        [Part(1, (3,)), Part(1, (2,))],
        [Part(None, (3,)), Part(None, (2,))],
        [Part(-1, (3,))],
        [Part(1, (3, 2), (5,))],
    ],
)
def test_what_cannot_be_laid_out_is_refused(parts) -> None:
    with pytest.raises(ValueError):
        lay_out(parts)
