"""Each way to multiply by segment gives the same, for any lengths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from service.base.segmented.products import (  # noqa: E402
    Batched,
    Grouped,
    Looped,
    Padded,
    Present,
    Products,
    choose,
)

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def ways(sizes: list[int], slots: list[int]) -> list[Products]:
    ends = torch.tensor(sizes).cumsum(0).to(torch.int32)
    present = Present(slots, CPU)
    equal = [Batched(len(sizes), present)] if len(set(sizes)) == 1 else []
    return [Looped(sizes, present), Grouped(ends, present), choose(sizes, slots, CPU), *equal]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6)
    | st.tuples(st.integers(1, 5), st.integers(1, 6)).map(lambda drawn: [drawn[1]] * drawn[0]),
    st.sets(st.integers(0, 9), min_size=6, max_size=6),
    st.integers(0, 2**31),
)
def test_every_way_gives_each_adapters_rows_its_own_matrix(sizes, drawn, seed) -> None:
    slots = sorted(drawn)[: len(sizes)]
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 8, generator=random)
    w = torch.full((10, 8, 16), torch.nan)
    w[slots] = torch.randn(len(sizes), 8, 16, generator=random)
    y = torch.randn(sum(sizes), 16, generator=random)
    scaling = torch.rand(sum(sizes), 1, generator=random)
    product = torch.cat([rows @ w[s] for rows, s in zip(x.split(sizes), slots, strict=True)])
    outer = torch.ones_like(w)
    for slot, a, b in zip(slots, x.split(sizes), y.split(sizes), strict=True):
        outer[slot] += a.t() @ b
    for way in ways(sizes, slots):
        torch.testing.assert_close(way.times(x, w), product)
        torch.testing.assert_close(way.times(x, w, scaling), product * scaling)
        torch.testing.assert_close(way.times(y, w.mT), way.times(y, w.mT.contiguous()))
        into = torch.ones_like(w)
        way.add_outer(into, x, y)
        torch.testing.assert_close(into, outer)
        out = y.clone()
        way.add_times(out, x, w)
        torch.testing.assert_close(out, y + product)
        out = x.clone()
        between = way.add_through(out, x, w, w.mT, scaling)
        torch.testing.assert_close(between, product * scaling)
        torch.testing.assert_close(out, x + way.times(between, w.mT))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sets(st.integers(0, 9), min_size=6, max_size=6),
    st.integers(0, 9),
    st.integers(0, 2**31),
)
def test_without_gradients_small_segments_are_padded_to_the_same_end(
    sizes, drawn, most, seed
) -> None:
    slots = sorted(drawn)[: len(sizes)]
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 8, generator=random)
    w = torch.full((10, 8, 16), torch.nan)
    w[slots] = torch.randn(len(sizes), 8, 16, generator=random)
    y = torch.randn(sum(sizes), 16, generator=random)
    scaling = torch.rand(sum(sizes), 1, generator=random)
    product = torch.cat([rows @ w[s] for rows, s in zip(x.split(sizes), slots, strict=True)])
    with torch.no_grad():
        chosen = choose(sizes, slots, CPU)
    for way in (Padded(sizes, slots, most), chosen):
        torch.testing.assert_close(way.times(x, w), product)
        torch.testing.assert_close(way.times(x, w, scaling), product * scaling)
        out = y.clone()
        way.add_times(out, x, w)
        torch.testing.assert_close(out, y + product)
