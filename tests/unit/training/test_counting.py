"""What is counted beforehand is what the trainers then report."""

from pathlib import Path
from typing import Any

import pytest

from service.rendering.renderer import Renderer
from service.training.batch.order import order_of
from service.training.counting import Total, counter, trained_tokens
from service.training.trainer import Started, TrainingTask
from tests.unit.training.batch.real import batch_trainer
from tests.unit.training.methods import (
    preference_trainer,
    preferring,
    reinforcement_trainer,
    reinforcing,
)
from tests.unit.training.tasks import Log, a_task, train

pytestmark = pytest.mark.torch


def counted(renderer: Renderer, task: TrainingTask, side: str) -> Total:
    total, count = Total(), counter(renderer, task.spec)
    for example in getattr(task, side):
        total.add(count(example))
    return total


def supervised(task: TrainingTask) -> TrainingTask:
    return task


@pytest.mark.parametrize(
    ("make", "translate"),
    [
        (batch_trainer, supervised),
        (preference_trainer, preferring),
        (reinforcement_trainer, reinforcing),
    ],
)
def test_steps_and_tokens_are_those_that_a_trainer_reports(
    renderer: Renderer, tmp_path: Path, make: Any, translate: Any
) -> None:
    task, log = translate(a_task(tmp_path, batch_size=8, max_length=24)), Log()
    trainer = make("nf4", 50)
    outcome = train(trainer, task, log)
    if make is batch_trainer:
        trainer.resident.base.remove()
    total, held_out = (counted(renderer, task, side) for side in ("train", "validation"))
    [started] = log.of(Started)
    assert (started.train_examples, started.validation_examples) == (total.kept, held_out.kept)
    assert started.truncated_examples == total.cut + held_out.cut
    assert started.dropped_examples == total.dropped + held_out.dropped
    assert outcome.steps == order_of(task.spec, total.kept).total_steps
    most = trained_tokens(task.spec, total)
    if task.spec.method == "reinforcement":
        # Answers may end before their limit.
        assert most / 2 < outcome.trained_tokens <= most
    else:
        assert outcome.trained_tokens == most
