"""The rows that an adapter is examined by, and that trainers score them as PEFT does."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.probes import HeldOut
from service.settings import BUNDLED_BASE
from service.training.pairs import Pair
from service.training.probing import EXAMPLE_TOKENS, PROBE_TOKENS, of_pairs, of_prompts, of_rows
from service.training.prompts import Prompt
from service.training.rows import IGNORED, Row
from service.training.spec import EarlyStopping
from service.training.trainer import Trainer
from tests.unit.training.methods import (
    Translated,
    preference_trainer,
    preferring,
    reinforcement_trainer,
    reinforcing,
)
from tests.unit.training.tasks import a_task, train


@st.composite
def rows(draw: st.DrawFn, longest: int = 2000) -> Row:
    length = draw(st.integers(1, longest))
    learned = draw(st.integers(0, length))
    tokens = list(range(length))
    return Row(tokens, [IGNORED] * learned + tokens[learned:])


def test_of_rows_sorted_by_kind_the_gate_begins_with_several_kinds() -> None:
    sorted_by_kind = [Row([kind, 1], [IGNORED, 1]) for kind in range(10) for _ in range(100)]
    first = of_rows(sorted_by_kind, sorted_by_kind).held_out.examples[:8]
    assert len({example.tokens[0] for example in first}) > 3


@given(st.lists(rows(), min_size=1, max_size=40), st.lists(rows(), max_size=40))
def test_probes_are_few_and_short_and_held_out_ones_carry_loss(
    train: list[Row], validation: list[Row]
) -> None:
    probes = of_rows(train, validation)
    assert 1 <= len(probes.probes) <= 4
    assert all(2 <= len(probe.tokens) <= PROBE_TOKENS for probe in probes.probes)
    assert len(probes.held_out.examples) <= 32
    for one in probes.held_out.examples:
        assert one.learned
        assert len(one.tokens) <= EXAMPLE_TOKENS
        assert all(0 <= place < len(one.tokens) for place in one.learned)
    measurable = [row for row in validation[:32] if row.labels[:EXAMPLE_TOKENS][-1] != IGNORED]
    assert probes.held_out.source == ("validation" if measurable else "training")


@given(st.lists(st.tuples(rows(600), rows(600)), min_size=1, max_size=20))
def test_pairs_stay_pairs(given_: list[tuple[Row, Row]]) -> None:
    pairs = [Pair(preferred, other) for preferred, other in given_]
    held_out = of_pairs(pairs, [], 0.1).held_out
    assert (held_out.source, held_out.beta) == ("training", 0.1)
    examples = held_out.examples
    assert len(examples) % 2 == 0
    assert len(examples) <= 32
    both = [(p.input_ids[:512], o.input_ids[:512]) for p, o in given_]
    found = zip(examples[::2], examples[1::2], strict=True)
    assert all((one.tokens, other.tokens) in both for one, other in found)


def test_prompts_have_no_loss() -> None:
    probes = of_prompts([Prompt([7], {}), Prompt([1, 2, 3], {})])
    assert [probe.tokens for probe in probes.probes] == [[7, 7], [1, 2, 3]]
    assert probes.held_out == HeldOut()


def batch() -> Trainer:
    from tests.unit.training.batch.real import batch_trainer

    made: Trainer = batch_trainer("none", 3)
    return made


def dpo() -> Trainer:
    return Translated(preference_trainer("none", 3), preferring)


def reinforcement() -> Trainer:
    return Translated(reinforcement_trainer("none", 3), reinforcing)


def peft_scores(adapter: Path, sequences: list[list[int]]) -> list[list[float]]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(BUNDLED_BASE), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    scores = []
    for sequence in sequences:
        ids = torch.tensor([sequence])
        with torch.no_grad():
            found = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        scores.append(found.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist())
    return scores


@pytest.mark.torch
@pytest.mark.parametrize("make", [batch, dpo, reinforcement])
def test_scores_are_those_of_peft_with_the_files(make, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    trainer = make()
    outcome = train(trainer, a_task(tmp_path))
    assert outcome.probes is not None
    if make is batch:
        trainer.resident.base.remove()
    theirs = peft_scores(outcome.adapter, [probe.tokens for probe in outcome.probes.probes])
    for probe, scores in zip(outcome.probes.probes, theirs, strict=True):
        assert probe.adapter == pytest.approx(scores, abs=2e-3)
        assert probe.base != pytest.approx(scores, abs=2e-2)


@pytest.mark.torch
def test_the_best_weights_are_scored_when_they_are_the_result(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    trainer = batch()
    task = a_task(tmp_path, n_epochs=6, early_stopping=EarlyStopping(patience=1, min_delta=10.0))
    outcome = train(trainer, task)
    trainer.resident.base.remove()  # type: ignore[attr-defined]
    assert outcome.probes is not None
    assert outcome.steps < 24
    theirs = peft_scores(outcome.adapter, [probe.tokens for probe in outcome.probes.probes])
    for probe, scores in zip(outcome.probes.probes, theirs, strict=True):
        assert probe.adapter == pytest.approx(scores, abs=2e-3)
