"""The hash drops as chance would."""

import pytest

torch = pytest.importorskip("torch")

from service.base.segmented.dropout import Dropout, dropped, dropped_on_cpu  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
WIDTH = 512


def masks(rate: float, seeds: tuple[int, ...], tokens: int = 256, layers: int = 2) -> torch.Tensor:
    """Give 1 where numbers are kept: `[layers, parts, tokens, width]`."""
    parts = [Part(slot, (tokens,), seed) for slot, seed in enumerate(seeds)]
    dropout = Dropout(parts, [rate] * len(parts), layers, CPU, torch.float64)
    ones = torch.ones(len(parts) * tokens, WIDTH, dtype=torch.float64)
    kept = torch.stack([dropout.apply(ones, layer) for layer in range(layers)])
    assert set(kept.unique().tolist()) == {0.0, 1 / (1 - rate)}
    return (kept > 0).double().view(layers, len(parts), tokens, WIDTH)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for_in_every_row_and_column(rate) -> None:
    kept = masks(rate, (1, 2, 2**63 + 5))
    deviation = (rate * (1 - rate)) ** 0.5
    count = kept.numel()
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / count**0.5
    rows, columns = kept.mean(-1), kept.mean(-2)
    assert (rows - (1 - rate)).abs().max() < 5.5 * deviation / WIDTH**0.5
    assert (columns - (1 - rate)).abs().max() < 5.5 * deviation / 256**0.5


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_no_two_rows_columns_layers_or_seeds_go_together(rate) -> None:
    kept = (masks(rate, (1, 2, 3)) - (1 - rate)) / (rate * (1 - rate)) ** 0.5
    flat = kept.flatten(0, 2)
    rows = flat @ flat.t() / WIDTH
    rows.fill_diagonal_(0)
    columns = flat.t() @ flat / len(flat)
    columns.fill_diagonal_(0)
    near = 1 if rate == 0.5 else 1.6  # rare events have longer tails
    assert rows.abs().max() < near * 6 / WIDTH**0.5
    assert columns.abs().max() < near * 6 / len(flat) ** 0.5
    assert rows.pow(2).mean() < 1.1 / WIDTH
    assert columns.pow(2).mean() < 1.1 / len(flat)


def test_rows_and_columns_do_not_combine() -> None:
    """A mask that is a product of a row's and a column's sign passes the pairwise test."""
    kept = 2 * masks(0.5, (1, 2))[0, 0] - 1
    random = torch.Generator().manual_seed(0)
    r, s = (torch.randint(0, 256, (200_000,), generator=random) for _ in range(2))
    c, d = (torch.randint(0, WIDTH, (200_000,), generator=random) for _ in range(2))
    apart = (r != s) & (c != d)
    fours = (kept[r, c] * kept[r, d] * kept[s, c] * kept[s, d])[apart]
    assert abs(fours.mean()) < 5 / len(fours) ** 0.5


def test_a_part_without_dropout_is_left_bit_equal() -> None:
    parts = [Part(0, (3,), 5), Part(1, (4,), 6)]
    dropout = Dropout(parts, [0.5, 0.0], 1, CPU, torch.float32)
    x = torch.randn(7, 16)
    out = dropout.apply(x, 0)
    assert torch.equal(out[3:], x[3:])
    assert not torch.equal(out[:3], x[:3])


def test_with_a_seed_for_each_example_its_masks_ignore_the_others() -> None:
    x = torch.ones(9, 64, dtype=torch.float64)

    def masked(lengths: tuple[int, ...], seeds: tuple[int, ...]) -> torch.Tensor:
        dropout = Dropout([Part(0, lengths, seeds)], [0.5], 1, CPU, torch.float64)
        return dropout.apply(x[: sum(lengths)], 0)

    whole = masked((4, 3, 2), (11, 2**63 + 7, 13))
    assert torch.equal(masked((3,), (2**63 + 7,)), whole[4:7])
    assert torch.equal(masked((4, 2), (11, 13)), whole[[0, 1, 2, 3, 7, 8]])
    assert not torch.equal(whole[0], whole[4])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 640])
def test_a_cpu_drops_the_same_numbers_as_a_gpu(dtype: torch.dtype, width: int) -> None:
    """The rows are more than it takes at once; bounds and keys lie at the ends, too."""
    random = torch.Generator().manual_seed(0)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, shape, generator=random).to(torch.int32)

    x = torch.randn(1000, width, generator=random).to(dtype)
    x[7] = torch.inf
    bounds, factors = integers(1000, 1), torch.rand(1000, 1, generator=random)
    bounds[0], bounds[1] = -(2**31), 2**31 - 1
    given = (x, integers(1000, 1) | 1, integers(width) | 1, bounds, factors)
    assert torch.equal(dropped_on_cpu(*given), dropped(*given))
