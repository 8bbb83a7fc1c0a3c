"""Which examples are held out."""

from hypothesis import given
from hypothesis import strategies as st

from service.training.split import split

counts, shares, seeds = st.integers(0, 300), st.floats(0, 0.9), st.integers(0, 2**31)


@given(count=counts, share=shares, seed=seeds)
def test_every_example_is_in_one_part_and_both_keep_their_order(
    count: int, share: float, seed: int
) -> None:
    train, measured = split(range(count), share, seed)
    assert sorted(train + measured) == list(range(count))
    assert train == sorted(train)
    assert measured == sorted(measured)
    assert not count or train


@given(count=counts, share=shares, seed=seeds)
def test_the_same_seed_chooses_the_same(count: int, share: float, seed: int) -> None:
    assert split(range(count), share, seed) == split(range(count), share, seed)


def test_another_seed_chooses_others() -> None:
    chosen = {tuple(split(range(100), 0.1, seed)[1]) for seed in range(20)}
    assert len(chosen) == 20


def test_no_share_holds_nothing_out() -> None:
    assert split(range(10), 0.0, 1) == (list(range(10)), [])
