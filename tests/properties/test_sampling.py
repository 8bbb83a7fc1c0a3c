"""Picking tokens: a row's pick is its own affair, and follows the documented order of steps."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.rows import Row

torch = pytest.importorskip("torch")

from service.base.sampling import pick  # noqa: E402

pytestmark = pytest.mark.torch

VOCABULARY = 40
tokens = st.integers(0, VOCABULARY - 1)


def quarters(most: int) -> st.SearchStrategy[float]:
    """Numbers that single precision adds up without rounding; many of them are equal."""
    return st.integers(-4 * most, 4 * most).map(lambda whole: whole / 4)


wishes = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.0, 0.6, 1.0, 1.7])},
    optional={
        "top_p": st.sampled_from([0.117, 0.613, 0.957, 1.0]),
        "top_k": st.integers(0, VOCABULARY + 1),
        "min_p": st.sampled_from([0.0, 0.013, 0.317, 1.0]),
        "presence_penalty": quarters(2),
        "frequency_penalty": quarters(2),
        "repetition_penalty": st.sampled_from([0.5, 1.0, 2.0, 4.0]),
        "logit_bias": st.dictionaries(tokens, quarters(100), max_size=5),
        "min_tokens": st.integers(0, 4),
        "ends": st.frozensets(tokens, max_size=3),
        "logprobs": st.integers(0, 20),
    },
)


cases = st.tuples(
    st.lists(quarters(8), min_size=VOCABULARY, max_size=VOCABULARY),
    st.builds(
        lambda prompt, chance, wished: {"prompt": prompt, "chance": chance, **wished},
        st.lists(tokens, min_size=1, max_size=6),
        st.floats(0, 1, exclude_max=True).map(lambda chance: (chance + 0.0137) % 1),
        wishes,
    ),
    st.lists(tokens, max_size=6),
)


def row(key: int, chance: float, **given: Any) -> Row:
    whole = {"top_p": 1.0, "logprobs": None, **given}
    return Row(key=key, adapter=None, salt="", chance=lambda: chance, **whole)


@given(st.lists(cases, min_size=1, max_size=6), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_row_is_picked_alike_alone_and_among_others(company, dtype) -> None:
    logits = torch.tensor([logits for logits, _, _ in company], dtype=dtype)
    rows = [row(key, **given) for key, (_, given, _) in enumerate(company)]
    generated = [made for _, _, made in company]
    together = pick(logits, rows, generated)
    for at in range(len(company)):
        alone = pick(logits[at : at + 1], rows[at : at + 1], generated[at : at + 1])
        assert alone == [together[at]]


@given(cases)
def test_a_pick_follows_the_documented_order(case) -> None:
    logits, given, generated = case
    [picked] = pick(torch.tensor([logits]), [row(0, **given)], [generated])
    assert picked.token == by_hand(logits, generated, **given)


def by_hand(
    logits: list[float],
    generated: list[int],
    *,
    prompt: list[int],
    chance: float,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    logit_bias: dict[int, float] | None = None,
    min_tokens: int = 0,
    ends: frozenset[int] = frozenset(),
    logprobs: int | None = None,
) -> int:
    """Pick a token one step after another, in plain numbers."""
    scores = dict(enumerate(logits))
    for token, bias in (logit_bias or {}).items():
        scores[token] += bias
    if len(generated) < min_tokens:
        scores |= dict.fromkeys(ends, -math.inf)
    for token in {*prompt, *generated}:
        over = scores[token] > 0
        scores[token] *= 1 / repetition_penalty if over else repetition_penalty
    for token, count in Counter(generated).items():
        scores[token] -= frequency_penalty * count + presence_penalty
    ranking = sorted(scores, key=lambda token: -scores[token])
    if temperature == 0:
        return ranking[0]
    best = scores[ranking[0]]
    weights = {token: math.exp((score - best) / temperature) for token, score in scores.items()}
    if top_p == 1 and top_k == 0 and min_p == 0:
        return fall(weights, chance)
    least = scores[ranking[min(top_k or VOCABULARY, VOCABULARY) - 1]]
    kept = [t for t in ranking if weights[t] >= min_p and scores[t] >= least]
    whole, before, nucleus = math.fsum(weights[t] for t in kept), 0.0, {}
    for token in kept:
        if before < top_p * whole or top_p == 1:
            nucleus[token] = weights[token]
        before += weights[token]
    return fall(nucleus, chance)


def fall(weights: dict[int, float], chance: float) -> int:
    """Find the token at which the cumulative weight passes the chance."""
    left = chance * math.fsum(weights.values())
    for token, weight in weights.items():
        left -= weight
        if left < 0:
            return token
    return max(token for token, weight in weights.items() if weight > 0)
