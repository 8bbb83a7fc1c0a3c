"""Picking tokens: shares are those of the distribution, and what is kept is what peers keep."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from service.base.rows import Pick, Row  # noqa: E402
from service.base.sampling import pick, ranked_shares  # noqa: E402

pytestmark = pytest.mark.torch

LOGITS = torch.tensor([[0.0, 2.0, 1.0, float("-inf")]])


def row(key: int = 0, chance: float = 0.5, **wishes: Any) -> Row:
    given = {"prompt": [0], "temperature": 1.0, "top_p": 1.0, "logprobs": None, **wishes}
    return Row(key=key, adapter=None, salt="", chance=lambda: chance, **given)


def picked(logits, rows: list[Row], generated: list[list[int]] | None = None) -> list[int]:
    picks = pick(logits, rows, generated or [[] for _ in rows])
    assert [each.key for each in picks] == [each.key for each in rows]
    return [each.token for each in picks]


def spread(count: int, **wishes: Any) -> list[int]:
    """What evenly spread chances pick of `LOGITS`."""
    rows = [row(n, (n + 0.5) / count, **wishes) for n in range(count)]
    return picked(LOGITS.expand(count, -1), rows)


def some_logits(rows: int = 1, vocabulary: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


class Only:
    """A structure that leaves some tokens, for ever."""

    def __init__(self, *tokens: int, over: bool = False) -> None:
        self._bits = sum(1 << token for token in tokens)
        self.over = over

    def mask(self) -> bytes:
        return self._bits.to_bytes(32, "little")


@pytest.mark.parametrize("wishes", [{}, {"top_p": 0.5}, {"top_k": 3}, {"temperature": 0.0}])
def test_a_row_keeps_to_its_structure_and_the_others_to_theirs(wishes: dict[str, Any]) -> None:
    logits = some_logits(4)
    free = picked(logits, [row(at, 0.7, **wishes) for at in range(4)])
    kept = {1: Only(31, 32, 150), 3: Only(199)}
    structured = [row(at, 0.7, **wishes, structure=kept.get(at)) for at in range(4)]
    tokens = picked(logits, structured)
    assert (tokens[0], tokens[2]) == (free[0], free[2])
    assert tokens[1] in {31, 32, 150}
    assert tokens[3] == 199


def test_what_a_structure_leaves_is_picked_in_its_shares_and_told_so() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 9.0]])
    left = torch.tensor([0.0, 1.0]).log_softmax(-1)
    (told,) = pick(logits, [row(logprobs=4, structure=Only(0, 2))], [[]])
    assert told.token == 2
    assert told.logprob == pytest.approx(left[1].item())
    assert [value for _, value in told.top] == pytest.approx(
        [left[1].item(), left[0].item(), float("-inf"), float("-inf")]
    )


def test_a_bias_brings_nothing_back_and_a_structure_may_end_before_min_tokens() -> None:
    wishes: dict[str, Any] = {"min_tokens": 5, "ends": (7,), "logit_bias": {9: 100.0}}
    rows = [row(0, structure=Only(7, 8), **wishes), row(1, structure=Only(7, over=True), **wishes)]
    assert picked(some_logits(2), rows) == [8, 7]


def test_temperature_zero_takes_the_likeliest() -> None:
    assert picked(LOGITS, [row(chance=0.99, temperature=0.0, top_p=0.1)]) == [1]


def test_a_temperature_close_to_zero_does_too() -> None:
    assert picked(LOGITS * 1000, [row(temperature=1e-300)]) == [1]


@pytest.mark.parametrize("top_p", [1.0, 0.999999])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_in_the_shares_of_the_distribution(top_p, temperature) -> None:
    tokens = spread(4000, temperature=temperature, top_p=top_p)
    expected = (LOGITS[0] / temperature).softmax(-1)
    for token in range(4):
        assert tokens.count(token) / 4000 == pytest.approx(float(expected[token]), abs=0.002)


@pytest.mark.parametrize(
    ("wishes", "allowed"),
    # The probabilities are 0.09, 0.67, 0.24, 0.
    [
        ({"top_p": 0.5}, {1}),
        ({"top_p": 0.7}, {1, 2}),
        ({"top_p": 0.95}, {0, 1, 2}),
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 99}, {0, 1, 2}),
        ({"min_p": 1.0}, {1}),
        ({"min_p": 0.2}, {1, 2}),
        ({"min_p": 0.1}, {0, 1, 2}),
        # Of the two that top_k leaves, the likelier has 0.73: top_p is of what is left.
        ({"top_k": 2, "top_p": 0.7}, {1}),
        ({"min_p": 0.2, "top_p": 0.7}, {1}),
        # The temperature comes first: at 0.5 the probabilities are 0.02, 0.87, 0.12.
        ({"temperature": 0.5, "min_p": 0.2}, {1}),
        ({"temperature": 0.5, "top_p": 0.8}, {1}),
    ],
)
def test_filters_keep_the_likeliest_and_nothing_else(wishes, allowed) -> None:
    assert set(spread(200, **wishes)) == allowed


def test_tokens_as_likely_as_the_last_of_top_k_are_kept() -> None:
    logits = torch.tensor([[1.0, 3.0, 1.0, 0.0]])
    rows = [row(n, n / 100, top_k=2) for n in range(100)]
    assert set(picked(logits.expand(100, -1), rows)) == {0, 1, 2}


@pytest.mark.parametrize("wishes", [{}, {"top_p": 0.5}, {"top_k": 2}, {"min_p": 0.5}])
@pytest.mark.parametrize("chance", [0.0, 1.0 - 2**-53])
def test_the_ends_of_chance_fall_on_possible_tokens(wishes, chance) -> None:
    logits = torch.tensor([[float("-inf"), 1.0, 1.0, float("-inf")]])
    assert picked(logits, [row(chance=chance, **wishes)])[0] in {1, 2}


@pytest.mark.parametrize("most", [60, 200])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 0.7},
        {"top_k": 7},
        {"temperature": 1.9, "top_p": 0.8},
        {"min_p": 0.05},
        {"temperature": 1.4, "min_p": 0.01, "top_k": 40, "top_p": 0.9},
    ],
)
def test_what_is_kept_and_its_shares_are_those_of_transformers(wishes, seed, most) -> None:
    from transformers import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    makers = {
        "temperature": TemperatureLogitsWarper,
        "min_p": MinPLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
    }
    logits = some_logits(seed=seed)
    theirs = logits.double()
    for name, make in makers.items():
        if name in wishes:
            theirs = make(wishes[name])(None, theirs)
    tokens, shares, enough = ranked_shares(logits, [row(**wishes)], most)
    assert enough.item() == (most > int((theirs > float("-inf")).sum()) or most == 200)
    if enough.item():
        ours = torch.zeros_like(theirs).scatter(-1, tokens, shares / shares.sum())
        assert torch.equal(ours > 0, theirs > float("-inf"))
        torch.testing.assert_close(ours, theirs.softmax(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("wishes", [{"top_p": 0.95}, {"top_k": 300}, {"top_k": 9}, {"min_p": 0.1}])
def test_a_large_vocabulary_is_sorted_only_as_far_as_it_matters(wishes) -> None:
    # The last logits are flat: what is left of them does not fit the few that are looked at first.
    logits = torch.cat([some_logits(3, 2000), some_logits(3, 2000) / 30])
    for first in (0.0, 0.03, 0.07, 0.159):
        chances = [first + 0.16 * key for key in range(6)]
        rows = [row(key, chance, **wishes) for key, chance in enumerate(chances)]
        tokens, shares, _ = ranked_shares(logits, rows, 2000)
        fallen = torch.tensor(chances, dtype=torch.double).unsqueeze(-1) * shares.sum(
            -1, keepdim=True
        )
        places = torch.searchsorted(shares.cumsum(-1), fallen, right=True)
        assert picked(logits, rows) == tokens.gather(-1, places).flatten().tolist()


def test_a_ranking_that_ends_among_equal_tokens_is_not_enough() -> None:
    logits = torch.tensor([[3.0, 2.0, 2.0, 2.0, 2.0, -9.0]])
    asked = [row(top_p=0.45)]
    assert [ranked_shares(logits, asked, most)[2].item() for most in (3, 4, 6)] == [False] * 2 + [
        True
    ]
    assert [ranked_shares(logits, [row(top_p=0.2)], most)[2].item() for most in (1, 2)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("most", [3, 5, 8])
def test_equal_tokens_are_ranked_by_id_however_many_are_wanted(most) -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0, 1.0, 0.0, 0.0]])
    tokens, _, _ = ranked_shares(logits, [row(top_k=2)], most)
    assert tokens[0].tolist() == [1, 2, 4, 0, 5, 3, 6, 7][:most]


def test_logprobs_are_given_to_who_asks() -> None:
    rows = [row(0), row(1, 0.0, logprobs=0), row(2, 0.99, logprobs=99)]
    none, zero, all_of_them = pick(LOGITS.expand(3, -1), rows, [[], [], []])
    assert none == Pick(0, 1, None, [])
    assert (zero.token, zero.top) == (0, [])
    assert zero.logprob == pytest.approx(-2.4076, abs=1e-3)
    assert [token for token, _ in all_of_them.top] == [1, 2, 0, 3]


@pytest.mark.parametrize("wishes", [{"temperature": 2.0}, {"logit_bias": {0: 50.0}}, {"top_k": 1}])
def test_logprobs_are_of_the_raw_distribution(wishes) -> None:
    [found] = pick(LOGITS, [row(logprobs=2, **wishes)], [[]])
    raw = LOGITS[0].log_softmax(-1).tolist()
    assert found.logprob == pytest.approx(raw[found.token])
    assert dict(found.top) == pytest.approx({1: raw[1], 2: raw[2]})
