"""What trainers promise about a task that goes on from an adapter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.training.spec import BaseAdapter
from service.training.trainer import Started, Trainer
from tests.fakes.trainer import FakeTrainer
from tests.unit.training.tasks import Interrupted, Log, a_task, sha256, train

EVERY = 3


@pytest.fixture(
    scope="module",
    params=["fake", pytest.param("batch", marks=pytest.mark.torch)],
)
def trainer(request: pytest.FixtureRequest) -> Iterator[Trainer]:
    if request.param == "fake":
        yield FakeTrainer(EVERY)
    else:
        from tests.unit.training.batch.real import batch_trainer

        batch = batch_trainer("nf4", EVERY)
        yield batch
        batch.resident.base.remove()


@pytest.fixture(scope="module")
def parent(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter to go on from."""
    return train(trainer, a_task(tmp_path_factory.mktemp("parent"), seed=1)).adapter


def test_it_begins_with_the_parents_weights(trainer: Trainer, tmp_path: Path, parent: Path) -> None:
    still = train(trainer, a_task(tmp_path / "still", parent=parent, learning_rate=0.0))
    assert sha256(still.adapter) == sha256(parent)
    moved = train(trainer, a_task(tmp_path / "moved", parent=parent))
    anew = train(trainer, a_task(tmp_path / "anew"))
    assert len({sha256(adapter) for adapter in (parent, moved.adapter, anew.adapter)}) == 3


def test_crashes_change_nothing(trainer: Trainer, tmp_path: Path, parent: Path) -> None:
    calm = sha256(train(trainer, a_task(tmp_path / "calm", parent=parent)).adapter)
    stormy = tmp_path / "stormy"
    for step, kept in ((2, 0), (5, 0), (None, 4)):
        log = Log(until=step)
        if step is None:
            assert sha256(train(trainer, a_task(stormy, parent=parent), log).adapter) == calm
        else:
            with pytest.raises(Interrupted):
                train(trainer, a_task(stormy, parent=parent), log)
        assert log.of(Started)[0].step == kept


def test_a_checkpoint_from_another_parent_is_another_tasks(
    trainer: Trainer, tmp_path: Path, parent: Path
) -> None:
    other = train(trainer, a_task(tmp_path / "other", seed=2)).adapter
    with pytest.raises(Interrupted):
        train(trainer, a_task(tmp_path / "child", parent=other), Log(until=7))
    for task in (a_task(tmp_path / "child", parent=parent), a_task(tmp_path / "child")):
        log = Log(until=1)
        with pytest.raises(Interrupted):
            train(trainer, task, log)
        assert log.of(Started)[0].step == 0


def test_a_parent_and_the_spec_go_together(tmp_path: Path) -> None:
    named = BaseAdapter(adapter="parent", digest="a" * 64)
    with pytest.raises(ValueError, match="base_adapter"):
        a_task(tmp_path, base_adapter=named)
