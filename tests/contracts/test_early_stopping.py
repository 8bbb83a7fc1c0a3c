"""What trainers promise about a run that no longer gets better."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.training.spec import EarlyStopping
from service.training.trainer import (
    BestTaken,
    CheckpointDue,
    Evaluated,
    Started,
    StepDone,
    StoppedEarly,
    Trainer,
    TrainingError,
    TrainingEvent,
    TrainingTask,
)
from tests.fakes.trainer import FakeTrainer
from tests.unit.training.tasks import Interrupted, Log, a_task, chat, sha256, train

EVERY = 3
BEST, ENDS, LAST = 10, 14, 20
"""The best evaluation, the one at which patience is over, and the last step there could be."""


@pytest.fixture(scope="module", params=["fake", pytest.param("batch", marks=pytest.mark.torch)])
def trainer(request: pytest.FixtureRequest) -> Iterator[Trainer]:
    if request.param == "fake":
        yield FakeTrainer(EVERY, worse_after=BEST)
    else:
        from tests.unit.training.batch.real import batch_trainer

        batch = batch_trainer("nf4", EVERY)
        yield batch
        batch.resident.base.remove()


def overfitting(workdir: Path, patience: int = 2, **spec: Any) -> TrainingTask:
    """Make a task that is held to what its examples make ever less likely."""
    chosen: dict[str, Any] = {
        "n_epochs": 5,
        "learning_rate": 1e-3,
        "eval_steps": 2,
        "early_stopping": EarlyStopping(patience=patience),
    }
    held_out = [chat("Say 5", "No, never, not at all.")]
    return msgspec.structs.replace(a_task(workdir, **chosen | spec), validation=held_out)


@pytest.fixture(scope="module")
def calm(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of the task when nothing disturbs it."""
    return sha256(train(trainer, overfitting(tmp_path_factory.mktemp("calm"))).adapter)


def test_it_ends_when_patience_is_over_with_the_best_weights(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    log = Log()
    outcome = train(trainer, overfitting(tmp_path), log)
    assert (outcome.steps, outcome.stopped) == (BEST, False)
    assert [event.step for event in log.of(Evaluated)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert [type(event) for event in log.events[-4:]] == [
        Evaluated,
        CheckpointDue,
        StoppedEarly,
        BestTaken,
    ]
    assert log.of(StoppedEarly) == [StoppedEarly(ENDS, LAST, 2)]
    [best] = [event for event in log.of(Evaluated) if event.step == BEST]
    assert log.of(BestTaken) == [BestTaken(BEST, best.valid_loss)]
    assert outcome.metrics["valid_loss"] == best.valid_loss
    assert outcome.metrics["train_loss"] == log.losses[BEST]
    assert outcome.trained_tokens == log.of(StepDone)[-1].tokens
    assert sha256(outcome.adapter) == calm


def test_the_best_weights_are_those_that_were_measured(trainer: Trainer, tmp_path: Path) -> None:
    """With evaluations at epochs' ends only, the best is one of the epochs' adapters."""
    log = Log()
    task = overfitting(tmp_path, patience=1, eval_steps=None)
    outcome = train(trainer, task, log)
    best = min(log.of(Evaluated)[1:], key=lambda event: event.valid_loss)
    assert log.last_step == best.step + 4 < LAST
    assert sha256(outcome.adapter) == log.weights[best.step] != log.weights[best.step + 4]


def test_crashes_change_nothing(trainer: Trainer, tmp_path: Path, calm: str) -> None:
    for step in (1, 7, 11, 13, 14):
        with pytest.raises(Interrupted):
            train(trainer, overfitting(tmp_path), Log(until=step))
    resumed = Log()
    outcome = train(trainer, overfitting(tmp_path), resumed)
    assert (sha256(outcome.adapter), outcome.steps) == (calm, BEST)
    assert resumed.of(StoppedEarly) == [StoppedEarly(ENDS, LAST, 2)]


def test_an_end_whose_report_failed_is_reported_again(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    class Deaf(Log):
        def report(self, event: TrainingEvent) -> None:
            super().report(event)
            if isinstance(event, StoppedEarly):
                raise Interrupted

    with pytest.raises(Interrupted):
        train(trainer, overfitting(tmp_path), Deaf())
    resumed = Log()
    assert sha256(train(trainer, overfitting(tmp_path), resumed).adapter) == calm
    assert [type(event) for event in resumed.events] == [Started, StoppedEarly, BestTaken]


def test_stops_that_are_asked_for_lose_nothing(trainer: Trainer, tmp_path: Path, calm: str) -> None:
    last = 0
    for step in (9, 10, 12, ENDS):
        log = Log(stop=step - last)
        outcome = train(trainer, overfitting(tmp_path), log)
        last = log.last_step
        assert last == step
        # Asked to stop where it ends anyway, it is just done.
        assert outcome.stopped == (step < ENDS)
        assert bool(log.of(StoppedEarly)) == (step == ENDS)
    assert sha256(outcome.adapter) == calm
    assert sha256(train(trainer, overfitting(tmp_path)).adapter) == calm


def test_with_patience_left_at_the_end_the_result_is_the_best_all_the_same(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    log = Log()
    outcome = train(trainer, overfitting(tmp_path, patience=50), log)
    assert (log.last_step, outcome.steps, outcome.stopped) == (LAST, BEST, False)
    assert log.of(StoppedEarly) == []
    assert [event.step for event in log.of(BestTaken)] == [BEST]
    assert sha256(outcome.adapter) == calm


def test_measuring_more_often_changes_nothing_that_is_learned(
    trainer: Trainer, tmp_path: Path
) -> None:
    often, seldom = Log(), Log()
    train(trainer, a_task(tmp_path / "often", eval_steps=3), often)
    train(trainer, a_task(tmp_path / "seldom"), seldom)
    assert [event.step for event in often.of(Evaluated)] == [0, 3, 4, 6, 8]
    assert often.weights == seldom.weights


@pytest.mark.parametrize(
    ("field", "value"), [("early_stopping", EarlyStopping(patience=1)), ("eval_steps", 2)]
)
def test_without_held_out_examples_it_is_refused_by_name(
    trainer: Trainer, tmp_path: Path, field: str, value: object
) -> None:
    with pytest.raises(TrainingError, match=r"(?i)measure") as raised:
        train(trainer, a_task(tmp_path, validation=0, **{field: value}))
    assert raised.value.param == f"method.supervised.{field}"
