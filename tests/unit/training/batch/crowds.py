"""A task among others of every kind that come and go, on a tiny base that is exact in float64."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from service.base.description import describe
from service.base.loading import LoadedBase
from service.base.segmented.base import SegmentedBase
from service.rendering.renderer import Renderer
from service.settings import BUNDLED_BASE
from service.training.batch import row
from service.training.batch.examples import Piece, Sums
from service.training.batch.resident import Resident
from service.training.batch.trainer import BatchTrainer
from service.training.spec import LoraSpec, TrainingSpec
from service.training.trainer import TrainingOutcome, TrainingTask
from tests.unit.base.segmented.models import ALL, make
from tests.unit.training.tasks import Log, chat

SUBJECT_RANK = 5
STEPS = 50


def tiny(dtype: torch.dtype) -> LoadedBase:
    """Make a base that takes the bundled one's tokens."""
    described = describe(str(BUNDLED_BASE))
    model = make(dtype=dtype, vocab_size=4096, max_position_embeddings=1024)
    return LoadedBase(model, described, "none", str(dtype).removeprefix("torch."), "cpu")


def crowd_trainer(dtype: torch.dtype, tokens_at_once: int = 160, **more: Any) -> BatchTrainer:
    """Make a trainer with short rows, so that optimizer steps are cut into several."""
    loaded = tiny(dtype)
    return BatchTrainer(
        loaded,
        SegmentedBase(loaded.model),
        Renderer(loaded.description),
        20,
        slots=8,
        rank=8,
        dtype=dtype,
        tokens_at_once=tokens_at_once,
        # So that each row has pieces of many tasks.
        quantum=1,
        **more,
    )


def subject(workdir: Path, **changes: Any) -> TrainingTask:
    """Make the task that is watched: 10 epochs of 5 steps."""
    lora = LoraSpec(rank=SUBJECT_RANK, alpha=11, dropout=0.2, target_modules=ALL)
    chosen = {"n_epochs": 10, "batch_size": 4, "learning_rate": 3e-3, "seed": 5, "lora": lora}
    rows = [chat(f"Say {i}", "It is " + f"{i} " * (1 + 5 * i % 17)) for i in range(20)]
    return TrainingTask("subject", TrainingSpec(**chosen | changes), rows[3:], rows[:3], workdir)


def somebody(workdir: Path, dice: random.Random) -> TrainingTask:
    """Make a task unlike the others."""
    lora = LoraSpec(
        rank=dice.choice([1, 2, 3, 7, 8, 12]),
        alpha=dice.uniform(1, 40),
        dropout=dice.choice([0.0, 0.05, 0.5]),
        target_modules=tuple(dice.sample(ALL, dice.randint(1, len(ALL)))),
        rslora=dice.random() < 0.3,
    )
    spec = TrainingSpec(
        lora=lora,
        n_epochs=dice.randint(1, 4),
        batch_size=dice.randint(1, 9),
        learning_rate=10 ** dice.uniform(-5, -1.5),
        gradient_clip=dice.choice([0.0, 0.1, 1.0]),
        seed=dice.randrange(2**40),
    )
    long = dice.randint(1, 40)
    rows = [
        chat(f"{dice.random()}", "so " * dice.randint(1, long)) for _ in range(dice.randint(1, 20))
    ]
    return TrainingTask(workdir.name, spec, rows, rows[: dice.randint(0, 4)], workdir)


class Crowd:
    """Keeps up to `size` others in the batch; they end, or are stopped, at random."""

    def __init__(self, trainer: BatchTrainer, size: int, seed: int, root: Path) -> None:
        self.trainer, self.size, self.root = trainer, size, root
        self.dice = random.Random(seed)
        self.futures: list[Any] = []

    def among_others(self, task: TrainingTask, log: Log) -> TrainingOutcome:
        """Train a task to its end with them; it joins when some are there."""
        for _ in range(self.dice.randint(0, 6)):
            self._row()
        result = self.trainer.join(self.trainer.plan(task), log.report, log.should_stop)
        while not result.done():
            if self.trainer.active:
                self._row()
        return result.result()

    @contextmanager
    def counting(self) -> Iterator[Counter[int]]:
        """Count the rows to learn from by how many tasks they held."""
        counts: Counter[int] = Counter()
        plain = row.learn

        def learn(resident: Resident, pieces: Mapping[int, Piece]) -> dict[int, Sums]:
            counts[len(pieces)] += 1
            return plain(resident, pieces)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(row, "learn", learn)
            yield counts

    def _row(self) -> None:
        there = sum(not future.done() for future in self.futures)
        for _ in range(self.size - there):
            if self.dice.random() < 0.6 and self.trainer.active <= self.size:
                self._join()
        self.trainer.step()

    def _join(self) -> None:
        task = somebody(self.root / f"other-{len(self.futures)}", self.dice)
        log = Log(stop=self.dice.randint(1, 15))
        tenant = self.dice.choice(["acme", "globex"])
        plan = self.trainer.plan(msgspec.structs.replace(task, tenant=tenant))
        self.futures.append(self.trainer.join(plan, log.report, log.should_stop))
