"""Bias and penalties: the arithmetic of the papers and of the peers, and their order."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from service.base.penalties import adjusted  # noqa: E402
from tests.unit.base.test_sampling import row, some_logits  # noqa: E402

pytestmark = pytest.mark.torch

LOGITS = torch.tensor([[1.0, -1.0, 4.0, 0.5, 2.0]])


def of_one(generated: list[int], prompt: list[int] | None = None, **wishes: Any) -> list[float]:
    rows = [row(prompt=prompt or [4], **wishes)]
    return adjusted(LOGITS, rows, [generated])[0].tolist()


def test_who_asks_for_nothing_gets_the_models_own() -> None:
    assert adjusted(LOGITS, [row()], [[1, 1]]) is LOGITS


def test_a_bias_is_added() -> None:
    assert of_one([], logit_bias={0: -100.0, 3: 2.5}) == [-99.0, -1.0, 4.0, 3.0, 2.0]


def test_frequency_counts_what_was_generated() -> None:
    assert of_one([2, 2, 0], frequency_penalty=0.5) == [0.5, -1.0, 3.0, 0.5, 2.0]


def test_presence_does_not_count_it() -> None:
    assert of_one([2, 2, 0], presence_penalty=-0.5) == [1.5, -1.0, 4.5, 0.5, 2.0]


def test_repetition_is_of_the_prompt_too() -> None:
    assert of_one([1, 1], [4, 0], repetition_penalty=2.0) == [0.5, -2.0, 4.0, 0.5, 1.0]


def test_a_row_that_has_nothing_yet_is_penalised_for_nothing() -> None:
    wishes = {"frequency_penalty": 2.0, "presence_penalty": 2.0}
    assert of_one([], **wishes) == LOGITS[0].tolist()


def test_the_bias_comes_before_the_repetition_penalty_and_that_before_the_two_others() -> None:
    wishes = {"logit_bias": {2: 2.0}, "repetition_penalty": 2.0}
    wishes |= {"frequency_penalty": 0.25, "presence_penalty": 1.0}
    assert of_one([2, 2], **wishes)[2] == (4.0 + 2.0) / 2.0 - 2 * 0.25 - 1.0


def test_no_end_is_possible_before_so_many_tokens() -> None:
    wishes = {"min_tokens": 2, "ends": {2, 4}, "logit_bias": {2: 100.0}}
    early, late = of_one([0], **wishes), of_one([0, 0], **wishes)
    assert (early[2], early[4]) == (float("-inf"), float("-inf"))
    assert early[:2] == LOGITS[0, :2].tolist()
    assert (late[2], late[4]) == (104.0, 2.0)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 7.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, said = some_logits(2), [[3, 8, 3], [150]]
    prompts = [[199, 0, 8], [7, 7, 7, 7, 1]]
    rows = [row(prompt=prompt, repetition_penalty=penalty) for prompt in prompts]
    ids = torch.tensor([[*p, *s] for p, s in zip(prompts, said, strict=True)])
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    torch.testing.assert_close(adjusted(logits, rows, said), theirs, rtol=0, atol=0)


def test_the_given_logits_are_left_alone() -> None:
    logits = LOGITS.clone()
    wishes = {"logit_bias": {0: 9.0}, "repetition_penalty": 2.0, "min_tokens": 3, "ends": [1]}
    adjusted(logits, [row(**wishes)], [[0]])
    assert torch.equal(logits, LOGITS)


def test_half_precision_is_adjusted_in_single() -> None:
    changed = adjusted(LOGITS.bfloat16(), [row(logit_bias={0: 2**-12})], [[]])
    assert changed[0, 0].item() == 1 + 2**-12
