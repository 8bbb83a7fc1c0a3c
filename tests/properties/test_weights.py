"""Which target of an alias answers: shares come out right, and keys stay where they can."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.adapters.weights import WeightedTarget, choose
from tests.strategies import digests

KEYS = [f"user-{number}" for number in range(400)]
SIGMAS = 6
"""So far off is one share in 10^9."""

weighted = st.dictionaries(digests(), st.integers(1, 1000), min_size=1, max_size=5)


def targets(weights: dict[str, int]) -> list[WeightedTarget]:
    return [WeightedTarget(digest, weight) for digest, weight in weights.items()]


def where(weights: dict[str, int]) -> dict[str, str]:
    made = targets(weights)
    return {key: choose(made, key) for key in KEYS}


@given(weighted)
def test_each_target_gets_its_share_of_the_keys(weights: dict[str, int]) -> None:
    got = Counter(where(weights).values())
    assert got.keys() <= weights.keys()
    for digest, weight in weights.items():
        share = weight / sum(weights.values())
        spread = math.sqrt(len(KEYS) * share * (1 - share))
        assert abs(got[digest] - len(KEYS) * share) <= SIGMAS * spread + 1


@given(weighted, st.text())
def test_a_key_stays_with_its_target_in_whatever_order_they_are(
    weights: dict[str, int], key: str
) -> None:
    made = targets(weights)
    assert choose(made, key) == choose(made[::-1], key)


@given(weighted, st.integers(1, 1000), st.data())
def test_a_heavier_target_takes_from_others_and_moves_nothing_between_them(
    weights: dict[str, int], more: int, data: st.DataObject
) -> None:
    heavier = data.draw(st.sampled_from(sorted(weights)))
    before = where(weights)
    after = where(weights | {heavier: weights[heavier] + more})
    moved = {key for key in KEYS if before[key] != after[key]}
    assert {after[key] for key in moved} <= {heavier}


@given(weighted, digests(), st.integers(1, 1000))
def test_a_new_target_takes_its_own_keys_only_and_gives_them_back(
    weights: dict[str, int], digest: str, weight: int
) -> None:
    without = {name: given for name, given in weights.items() if name != digest} or {"f": 1}
    before, after = where(without), where(without | {digest: weight})
    assert {after[key] for key in KEYS if before[key] != after[key]} <= {digest}


def test_without_a_key_it_is_drawn_by_weight() -> None:
    made = targets({"a" * 64: 1, "b" * 64: 3})
    drawn = Counter(choose(made, None) for _ in range(2000))
    assert abs(drawn["b" * 64] - 1500) <= SIGMAS * math.sqrt(2000 * 0.25 * 0.75)


def test_a_key_need_not_be_proper_text() -> None:
    assert choose(targets({"a" * 64: 1}), "\ud800") == "a" * 64
