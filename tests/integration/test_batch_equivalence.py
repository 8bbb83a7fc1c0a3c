"""What a task learns does not depend on who shares the batch; and alone, it is what TRL teaches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from service.base.segmented.optimizer import SlotAdamW  # noqa: E402
from service.training.spec import LoraSpec  # noqa: E402
from service.training.trainer import Evaluated, StepDone  # noqa: E402
from tests.unit.base.segmented.models import apart  # noqa: E402
from tests.unit.training.batch.crowds import (  # noqa: E402
    STEPS,
    SUBJECT_RANK,
    Crowd,
    crowd_trainer,
    subject,
)
from tests.unit.training.tasks import WEIGHTS, Log, train  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]

Tensors = dict[str, torch.Tensor]
Seen = list[tuple[Tensors, Tensors]]
"""Gradients of each step, and the weights after it."""

CROWDS = [(1, 11, 160), (3, 12, 160), (7, 13, 160), (7, 14, 800)]
"""How many others, dice, and tokens in a row."""


def kept(workdir: Path) -> Tensors:
    """Give the last checkpoint's tensors, in the precision that was computed in."""
    folder = workdir / "checkpoints" / f"step-{STEPS}"
    return load_file(folder / WEIGHTS) | load_file(folder / "optimizer.safetensors")


def alone(dtype: torch.dtype, workdir: Path) -> Log:
    log = Log()
    trainer = crowd_trainer(dtype, tokens_at_once=10_000)
    train(trainer, subject(workdir), log)
    trainer.close()
    assert log.last_step == STEPS
    return log


def crowded(dtype: torch.dtype, size: int, seed: int, budget: int, root: Path) -> tuple[Log, Crowd]:
    log = Log()
    trainer = crowd_trainer(dtype, budget)
    crowd = Crowd(trainer, size, seed, root)
    with crowd.counting() as together:
        crowd.among_others(subject(root / "subject"), log)
    trainer.close()
    assert len(crowd.futures) > size
    # Else this would prove nothing.
    assert max(together) >= min(size + 1, 4)
    assert sum(count for tasks, count in together.items() if tasks > 1) >= 0.9 * STEPS
    return log, crowd


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, Tensors]:
    workdir = tmp_path_factory.mktemp("alone")
    return alone(torch.float64, workdir), kept(workdir)


@pytest.mark.parametrize(("size", "seed", "budget"), CROWDS)
def test_weights_in_float64_are_those_of_the_task_alone(
    reference: tuple[Log, Tensors], tmp_path: Path, size: int, seed: int, budget: int
) -> None:
    log, _ = crowded(torch.float64, size, seed, budget, tmp_path)
    expected = reference[1]
    found = kept(tmp_path / "subject")
    assert found.keys() == expected.keys()
    worst = max(apart(found[key], expected[key]) for key in expected)
    print(f"{size} others: weights and moments apart {worst:.1e}")
    assert worst < 1e-8
    assert log.losses == pytest.approx(reference[0].losses, rel=1e-9)
    assert measured(log) == pytest.approx(measured(reference[0]), rel=1e-9)


def measured(log: Log) -> dict[int, float]:
    return {event.step: event.valid_loss for event in log.of(Evaluated)}


def watch(
    monkeypatch: pytest.MonkeyPatch, after: Callable[[SlotAdamW, int, Tensors], None]
) -> None:
    """Call `after` the subject's every step, with the gradient that it took."""
    plain = SlotAdamW.step

    def step(self: SlotAdamW, settings: dict[int, Any]) -> Any:
        mine = [slot for slot in settings if self._slots[slot].rank == SUBJECT_RANK]
        taken = {s: {k: v.clone() for k, v in self._slots.gradients(s).items()} for s in mine}
        norms = plain(self, settings)
        for slot, gradients in taken.items():
            after(self, slot, gradients)
        return norms

    monkeypatch.setattr(SlotAdamW, "step", step)


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, Seen]:
    """The task alone, and what it saw."""
    seen: Seen = []

    def note(optimizer: SlotAdamW, slot: int, gradients: Tensors) -> None:
        weights = {k: v.clone() for k, v in optimizer._slots.weights(slot).items()}
        seen.append((gradients, weights))

    with pytest.MonkeyPatch.context() as patched:
        watch(patched, note)
        return alone(torch.float32, tmp_path_factory.mktemp("alone")), seen


@pytest.mark.parametrize(("size", "seed", "budget"), CROWDS)
def test_loss_curves_in_float32_are_those_of_the_task_alone(
    in_float32: tuple[Log, Seen], tmp_path: Path, size: int, seed: int, budget: int
) -> None:
    solo = in_float32[0]
    log, _ = crowded(torch.float32, size, seed, budget, tmp_path)
    worst = max(abs(log.losses[s] / loss - 1) for s, loss in solo.losses.items())
    print(f"{size} others: losses apart {worst:.1e}")
    assert log.losses == pytest.approx(solo.losses, rel=1e-3)
    assert measured(log) == pytest.approx(measured(solo), rel=1e-3)


@pytest.mark.parametrize(("size", "seed", "budget"), CROWDS)
def test_gradients_in_float32_from_equal_weights_are_those_of_the_task_alone(
    in_float32: tuple[Log, Seen],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    seed: int,
    budget: int,
) -> None:
    solo = in_float32[1]
    distances: list[float] = []

    def compare(optimizer: SlotAdamW, slot: int, gradients: Tensors) -> None:
        theirs, weights = solo[len(distances)]
        # B is zero before the first real step, and so are gradients of A.
        distances.append(max(apart(gradients[k], g) for k, g in theirs.items() if g.any()))
        optimizer._slots.put(slot, weights)

    watch(monkeypatch, compare)
    crowded(torch.float32, size, seed, budget, tmp_path)
    assert len(distances) == STEPS
    print(f"{size} others: gradients apart {max(distances):.1e}")
    assert max(distances) < 1e-5


def test_alone_it_learns_what_trl_teaches(tmp_path: Path) -> None:
    """From the same first weights and in the same order, loss by loss."""
    from tests.reference.sft import teach
    from tests.unit.training.batch.real import batch_trainer

    shape = LoraSpec(rank=4, alpha=8, dropout=0.0)
    task = subject(tmp_path / "ours", lora=shape, n_epochs=3, learning_rate=1e-3)
    first, ours = tmp_path / "first", Log()
    trainer = batch_trainer("none", 20, tokens_at_once=100)
    slot = trainer.resident.allocate(shape, task.spec.seed)
    trainer.resident.slots.save(slot, first, "tiny")
    trainer.resident.free(slot)
    train(trainer, task, ours)
    trainer.resident.base.remove()
    theirs = teach(task, first)
    assert len(theirs.losses) == 15
    worst = max(abs(ours.losses[s] / loss - 1) for s, loss in theirs.losses.items())
    print(f"losses apart {worst:.1e}")
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-3)
    assert measured(ours) == pytest.approx(theirs.measured, rel=1e-3)
    mine = [event.train_mean_token_accuracy for event in ours.of(StepDone)]
    assert mine == pytest.approx(theirs.accuracies, abs=0.02)
    assert [event.tokens for event in ours.of(StepDone)] == theirs.tokens
    assert theirs.losses[15] < theirs.losses[1] / 2
