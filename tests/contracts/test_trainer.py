"""What every trainer promises."""

import shutil
import threading
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import msgspec
import pytest

from adapters_store import MemoryAdapterStore
from service.training.trainer import (
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    StepDone,
    Trainer,
    TrainingError,
)
from tests.builders import an_origin
from tests.fakes.trainer import FakeTrainer
from tests.unit.training.tasks import (
    CONFIG,
    WEIGHTS,
    Interrupted,
    Log,
    a_task,
    chat,
    config,
    sha256,
    train,
)

EVERY = 3
"""Steps between checkpoints."""

TORCH = ("batch", "dpo", "reinforcement")


@pytest.fixture(
    scope="module",
    params=["fake", *(pytest.param(name, marks=pytest.mark.torch) for name in TORCH)],
)
def trainer(request: pytest.FixtureRequest) -> Iterator[Trainer]:
    if request.param == "fake":
        yield FakeTrainer(EVERY)
    elif request.param == "dpo":
        from tests.unit.training.methods import Translated, preference_trainer, preferring

        yield Translated(preference_trainer("nf4", EVERY), preferring)
    elif request.param == "reinforcement":
        from tests.unit.training.methods import Translated, reinforcement_trainer, reinforcing

        yield Translated(reinforcement_trainer("nf4", EVERY), reinforcing)
    else:
        from tests.unit.training.batch.real import batch_trainer

        batch = batch_trainer("nf4", EVERY)
        yield batch
        batch.resident.base.remove()


@pytest.fixture(scope="module")
def calm(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of the task when nothing disturbs it."""
    return sha256(train(trainer, a_task(tmp_path_factory.mktemp("calm"))).adapter)


def test_a_run_reports_in_order(trainer: Trainer, tmp_path: Path) -> None:
    log = Log()
    outcome = train(trainer, a_task(tmp_path), log)
    assert [(type(event), getattr(event, "step", None)) for event in log.events] == [
        (Started, 0),
        (Evaluated, 0),
        (StepDone, 1),
        (StepDone, 2),
        (StepDone, 3),
        (CheckpointDue, 3),
        (StepDone, 4),
        (Evaluated, 4),
        (EpochDone, 4),
        (CheckpointDue, 4),
        (StepDone, 5),
        (StepDone, 6),
        (CheckpointDue, 6),
        (StepDone, 7),
        (StepDone, 8),
        (Evaluated, 8),
        (EpochDone, 8),
        (CheckpointDue, 8),
    ]
    assert (outcome.steps, outcome.stopped) == (8, False)
    started = log.of(Started)[0]
    assert (started.total_steps, started.train_examples, started.validation_examples) == (8, 13, 3)


def test_steps_say_how_training_goes(trainer: Trainer, tmp_path: Path) -> None:
    log = Log()
    outcome = train(trainer, a_task(tmp_path), log)
    steps = log.of(StepDone)
    tokens = [step.tokens for step in steps]
    assert tokens == sorted(set(tokens))
    assert outcome.trained_tokens == tokens[-1]
    assert all(step.total_steps == len(steps) for step in steps)
    assert all(step.tokens_per_second > 0 and isfinite(step.train_loss) for step in steps)
    assert all(0 <= (step.train_mean_token_accuracy or 0) <= 1 for step in steps)
    first, last = log.of(Evaluated)[0], log.of(Evaluated)[-1]
    if first.valid_loss is not None:  # a policy has rewards, and its loss says nothing
        assert last.valid_loss < first.valid_loss
        assert all(step.train_loss > 0 for step in steps)
    assert first.metrics.keys() == last.metrics.keys()
    assert outcome.metrics == {
        "train_loss": steps[-1].train_loss,
        "train_mean_token_accuracy": steps[-1].train_mean_token_accuracy,
        **steps[-1].metrics,
        "valid_loss": last.valid_loss,
        "valid_mean_token_accuracy": last.valid_mean_token_accuracy,
        **last.metrics,
    }
    assert log.of(EpochDone)[-1].metrics == outcome.metrics


def test_a_few_rows_are_scored_with_each_adapter_and_without(
    trainer: Trainer, tmp_path: Path
) -> None:
    log = Log()
    outcome = train(trainer, a_task(tmp_path), log)
    first, last = [event.probes for event in log.of(EpochDone)]
    assert outcome.probes == last
    assert 1 <= len(last.probes) <= 4
    for before, after in zip(first.probes, last.probes, strict=True):
        assert before.tokens == after.tokens
        assert 2 <= len(after.tokens) <= 64
        assert len(after.base) == len(after.adapter) == len(after.tokens) - 1
        assert all(isfinite(score) and score <= 0 for score in [*after.base, *after.adapter])
        assert before.base == pytest.approx(after.base, abs=1e-5)
        assert len({tuple(after.base), tuple(before.adapter), tuple(after.adapter)}) == 3


def test_a_run_that_stops_has_nothing_to_be_examined(trainer: Trainer, tmp_path: Path) -> None:
    assert train(trainer, a_task(tmp_path), Log(stop=2)).probes is None


def test_the_same_task_gives_the_same_adapter(trainer: Trainer, tmp_path: Path, calm: str) -> None:
    assert sha256(train(trainer, a_task(tmp_path)).adapter) == calm


def test_another_seed_gives_another_adapter(trainer: Trainer, tmp_path: Path, calm: str) -> None:
    assert sha256(train(trainer, a_task(tmp_path, seed=6)).adapter) != calm


def test_an_adapter_is_pefts_two_files_and_names_no_path(trainer: Trainer, tmp_path: Path) -> None:
    adapter = train(trainer, a_task(tmp_path)).adapter
    assert {file.name for file in adapter.iterdir()} == {CONFIG, WEIGHTS}
    written = config(adapter)
    assert written["base_model_name_or_path"] == "lorehouse-tiny"
    assert written["inference_mode"] is True
    store = MemoryAdapterStore()
    published = store.publish("acme", "support", adapter, an_origin())
    assert store.open(published.ref).ref == published.ref


def test_the_last_epochs_adapter_is_the_result(trainer: Trainer, tmp_path: Path) -> None:
    log = Log()
    outcome = train(trainer, a_task(tmp_path), log)
    assert set(log.weights) == {4, 8}
    assert log.weights[8] == sha256(outcome.adapter) != log.weights[4]


def test_stops_are_within_one_step_and_lose_nothing(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    """One after another: in an epoch, at its end, where a checkpoint is due anyway."""
    last, adapter = 0, None
    for step in (1, 2, 4, 6, 8):
        asked = Log(stop=step - last)
        outcome = train(trainer, a_task(tmp_path), asked)
        assert asked.of(Started)[0].step == last
        assert asked.steps == list(range(last + 1, step + 1))
        # Asked to stop after its last step, it is just done.
        assert outcome.stopped == (step < 8)
        last, adapter = step, outcome.adapter
    assert adapter is not None
    assert sha256(adapter) == calm


def test_crashes_are_repeated_from_the_newest_checkpoint_to_the_same_adapter(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    """One after another; the last run is to the end."""
    losses: dict[int, float] = {}
    told: set[int] = set()
    for step, kept in ((1, 0), (3, 0), (4, 0), (5, 3), (8, 4), (None, 6)):
        log = Log(until=step)
        if step is None:
            assert sha256(train(trainer, a_task(tmp_path), log).adapter) == calm
        else:
            with pytest.raises(Interrupted):
                train(trainer, a_task(tmp_path), log)
        assert log.of(Started)[0].step == kept
        assert log.steps == list(range(kept + 1, (step or 8) + 1))
        again = losses.keys() & log.losses.keys()
        assert {s: losses[s] for s in again} == {s: log.losses[s] for s in again}
        losses |= log.losses
        told |= log.weights.keys()
    # Every epoch's end came, before a crash or after it.
    assert told == {4, 8}


def test_an_epoch_whose_report_failed_is_reported_again(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    class Deaf(Log):
        def report(self, event: object) -> None:
            super().report(event)  # type: ignore[arg-type]
            if isinstance(event, EpochDone):
                raise Interrupted

    with pytest.raises(Interrupted):
        train(trainer, a_task(tmp_path), Deaf())
    resumed = Log()
    assert sha256(train(trainer, a_task(tmp_path), resumed).adapter) == calm
    assert [event.step for event in resumed.of(EpochDone)] == [4, 8]


def test_what_a_half_written_checkpoint_left_is_not_resumed_from(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    with pytest.raises(Interrupted):
        train(trainer, a_task(tmp_path), Log(until=7))
    folder = tmp_path / "checkpoints"
    unfinished = folder / "unfinished"
    unfinished.mkdir()
    (unfinished / WEIGHTS).write_bytes((folder / "step-6" / WEIGHTS).read_bytes()[:100])
    resumed = Log()
    assert sha256(train(trainer, a_task(tmp_path), resumed).adapter) == calm
    assert resumed.of(Started)[0].step == 6


def test_a_checkpoint_that_lost_a_file_is_passed_over_for_an_older_whole_one(
    trainer: Trainer, tmp_path: Path, calm: str
) -> None:
    crashed = tmp_path / "crashed"
    with pytest.raises(Interrupted):
        train(trainer, a_task(crashed), Log(until=7))
    names = [file.name for file in (crashed / "checkpoints" / "step-6").iterdir()]
    assert len(names) > 1
    for name in names:
        workdir = shutil.copytree(crashed, tmp_path / name)
        (workdir / "checkpoints" / "step-6" / name).unlink()
        # That the older one leads to the same adapter is seen once.
        resumed = Log(until=None if name == names[0] else 5)
        if name == names[0]:
            assert sha256(train(trainer, a_task(workdir), resumed).adapter) == calm
        else:
            with pytest.raises(Interrupted):
                train(trainer, a_task(workdir), resumed)
        assert resumed.of(Started)[0].step == 4, name


def test_another_tasks_checkpoints_are_not_resumed_from(trainer: Trainer, tmp_path: Path) -> None:
    for seed, log in ((6, Log(until=7)), (5, Log(until=1))):
        with pytest.raises(Interrupted):
            train(trainer, a_task(tmp_path, seed=seed), log)
        assert log.of(Started)[0].step == 0


def test_without_held_out_examples_nothing_is_measured(trainer: Trainer, tmp_path: Path) -> None:
    log = Log()
    outcome = train(trainer, a_task(tmp_path, validation=0), log)
    assert log.of(Evaluated) == []
    assert outcome.metrics.keys() >= {"train_loss", "train_mean_token_accuracy"}
    assert not [name for name in outcome.metrics if name.startswith("valid")]


def test_examples_that_teach_nothing_cannot_be_trained(trainer: Trainer, tmp_path: Path) -> None:
    # Of answers that carry no loss, and no room for a sampled one.
    task = a_task(tmp_path, max_length=10)
    mute = [chat("Say nothing at all, ever, whatever else is asked", "Nothing.", weight=0)] * 3
    with pytest.raises(TrainingError) as raised:
        train(trainer, msgspec.structs.replace(task, train=mute))
    assert (raised.value.code, raised.value.param) == ("no_trainable_examples", "training_file")


def test_a_trainer_works_in_any_one_thread(trainer: Trainer, tmp_path: Path, calm: str) -> None:
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.append(sha256(train(trainer, a_task(tmp_path)).adapter))
    )
    thread.start()
    thread.join()
    assert found == [calm]
