"""Each way to multiply by segment gives the same, for any lengths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from service.base.segmented.products import (  # noqa: E402
    Batched,
    Grouped,
    Looped,
    Products,
    choose,
)

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


def ways(sizes: list[int]) -> list[Products]:
    ends = torch.tensor(sizes).cumsum(0).to(torch.int32)
    equal = [Batched(len(sizes))] if len(set(sizes)) == 1 else []
    return [Looped(sizes), Grouped(ends), choose(sizes, CPU), *equal]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6)
    | st.tuples(st.integers(1, 5), st.integers(1, 6)).map(lambda drawn: [drawn[1]] * drawn[0]),
    st.integers(0, 2**31),
)
def test_every_way_gives_each_adapters_rows_its_own_matrix(sizes, seed) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 8, generator=random)
    w = torch.randn(len(sizes), 8, 16, generator=random)
    y = torch.randn(sum(sizes), 16, generator=random)
    pieces = list(zip(x.split(sizes), w, strict=True))
    product = torch.cat([rows @ matrix for rows, matrix in pieces])
    outer = torch.stack([a.t() @ b for a, b in zip(x.split(sizes), y.split(sizes), strict=True)])
    for way in ways(sizes):
        torch.testing.assert_close(way.times(x, w), product)
        torch.testing.assert_close(way.times(y, w.mT), way.times(y, w.mT.contiguous()))
        torch.testing.assert_close(way.outer(x, y), outer)
        out = y.clone()
        way.add_times(out, x, w)
        torch.testing.assert_close(out, y + product)
