"""Picking tokens: rows are independent, and the shares are those of the distribution."""

import random

import pytest

torch = pytest.importorskip("torch")

from service.base.sampling import pick, ranked_logprobs  # noqa: E402

pytestmark = pytest.mark.torch

LOGITS = torch.tensor([[0.0, 2.0, 1.0, float("-inf")]])


def test_temperature_zero_takes_the_likeliest() -> None:
    assert pick(LOGITS, [0.0], [0.1], [0.99]) == [1]


def test_a_temperature_close_to_zero_does_too() -> None:
    assert pick(LOGITS * 1000, [1e-300], [1.0], [0.5]) == [1]


@pytest.mark.parametrize("top_p", [1.0, 0.999999])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_in_the_shares_of_the_distribution(top_p, temperature) -> None:
    count = 4000
    chances = [(n + 0.5) / count for n in range(count)]
    picked = pick(LOGITS.expand(count, -1), [temperature] * count, [top_p] * count, chances)
    expected = (LOGITS[0] / temperature).softmax(-1)
    for token in range(4):
        assert picked.count(token) / count == pytest.approx(float(expected[token]), abs=0.002)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    # The probabilities are 0.09, 0.67, 0.24, 0.
    chances = [n / 100 for n in range(100)]
    for top_p, allowed in ((0.5, {1}), (0.7, {1, 2}), (0.95, {0, 1, 2})):
        picked = pick(LOGITS.expand(100, -1), [1.0] * 100, [top_p] * 100, chances)
        assert set(picked) == allowed


@pytest.mark.parametrize("top_p", [1.0, 0.5])
@pytest.mark.parametrize("chance", [0.0, 1.0 - 2**-53])
def test_the_ends_of_chance_fall_on_possible_tokens(top_p, chance) -> None:
    logits = torch.tensor([[float("-inf"), 1.0, 1.0, float("-inf")]])
    assert pick(logits, [1.0], [top_p], [chance])[0] in {1, 2}


def test_a_row_is_picked_alike_alone_and_among_others() -> None:
    chance = random.Random(3)
    rows = torch.randn(30, 100, generator=torch.Generator().manual_seed(1))
    temperatures = [chance.choice([0.0, 0.7, 1.5]) for _ in range(30)]
    top_ps = [chance.choice([0.3, 0.9, 1.0]) for _ in range(30)]
    chances = [chance.random() for _ in range(30)]
    together = pick(rows, temperatures, top_ps, chances)
    for at in range(30):
        alone = pick(rows[at : at + 1], [temperatures[at]], [top_ps[at]], [chances[at]])
        assert alone == [together[at]]


def test_logprobs_are_given_to_who_asks() -> None:
    logits = LOGITS.expand(3, -1)
    none, zero, all_of_them = ranked_logprobs(logits, [0, 0, 2], [None, 0, 99])
    assert none is None
    assert zero is not None
    assert all_of_them is not None
    assert zero[0] == pytest.approx(-2.4076, abs=1e-3)
    assert zero[1] == []
    assert [token for token, _ in all_of_them[1]][:3] == [1, 2, 0]
