"""In the batch, going on from an adapter is beginning with its weights and nothing else of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from service.training.batch.trainer import BatchTrainer  # noqa: E402
from service.training.spec import LoraSpec  # noqa: E402
from service.training.trainer import Evaluated, TrainingError  # noqa: E402
from tests.reference.sft import teach  # noqa: E402
from tests.unit.training.batch.real import batch_trainer  # noqa: E402
from tests.unit.training.tasks import CONFIG, LORA, WEIGHTS, Log, a_task, train  # noqa: E402

pytestmark = pytest.mark.torch

DRY = LoraSpec(rank=4, alpha=8, dropout=0.0)


@pytest.fixture
def trainer() -> Iterator[BatchTrainer]:
    trainer = batch_trainer("none", 3)
    yield trainer
    trainer.resident.base.remove()


def valid_losses(log: Log) -> list[float]:
    return [event.valid_loss for event in log.of(Evaluated)]


def test_it_is_measured_first_as_the_parent_was_last(trainer: BatchTrainer, tmp_path: Path) -> None:
    before, after = Log(), Log()
    parent = train(trainer, a_task(tmp_path / "parent"), before).adapter
    train(trainer, a_task(tmp_path / "child", parent=parent), after)
    assert valid_losses(after)[0] == pytest.approx(valid_losses(before)[-1], rel=1e-6)


def test_it_learns_what_trl_teaches_from_the_same_weights(
    trainer: BatchTrainer, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"lora": DRY, "n_epochs": 2}
    parent = train(trainer, a_task(tmp_path / "parent", **changes)).adapter
    task, ours = a_task(tmp_path / "child", parent=parent, **changes), Log()
    train(trainer, task, ours)
    theirs = teach(task, parent)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-3)
    assert valid_losses(ours) == pytest.approx(list(theirs.measured.values()), rel=1e-3)
    assert ours.losses[8] < ours.losses[1]


@pytest.mark.parametrize(
    "change", [{"rank": 8}, {"alpha": 9.0}, {"rslora": True}, {"target_modules": ("q_proj",)}]
)
def test_another_shape_than_the_parents_is_refused(
    trainer: BatchTrainer, tmp_path: Path, change: dict[str, Any]
) -> None:
    parent = train(trainer, a_task(tmp_path / "parent", n_epochs=1)).adapter
    lora = msgspec.structs.replace(LORA, **change)
    with pytest.raises(TrainingError, match="differ") as raised:
        trainer.plan(a_task(tmp_path / "child", parent=parent, lora=lora))
    assert raised.value.param == "method.supervised.base_adapter"


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_damaged_files_are_refused(trainer: BatchTrainer, tmp_path: Path, file: str) -> None:
    parent = train(trainer, a_task(tmp_path / "parent", n_epochs=1)).adapter
    task = a_task(tmp_path / "child", parent=parent)
    (parent / file).write_bytes((parent / file).read_bytes()[:-9])
    with pytest.raises(TrainingError, match="cannot be read") as raised:
        trainer.plan(task)
    assert raised.value.code == "invalid_adapter"
