"""One pass over a job's files, as training would see them, in bounded memory. Blocks."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from service.datasets.inspection import lines_of
from service.datasets.parsing import Fault, parse
from service.errors import BadRequest
from service.jobs.plan_answers import Answers
from service.rendering.examples import Example
from service.rendering.renderer import Renderer
from service.training.counting import Count, Total, counter
from service.training.graders.faults import GraderFault
from service.training.prompts import ungradable
from service.training.rows import unrenderable
from service.training.spec import TrainingSpec
from service.training.split import measured

MOST_COMPARED = 1_000_000
"""Rows that are remembered by their hash; those after them are not compared."""

Side = Literal["train", "validation"]
Stopped = Callable[[], bool]


class SurveyStopped(Exception):
    """Nobody waits for it any more."""


class Found(msgspec.Struct, frozen=True):
    """What a job's files hold."""

    train: Total
    validation: Total
    duplicates: int
    """Rows to train on that are equal to an earlier one of them."""
    overlap: int
    """Held-out rows that are also trained on."""
    compared: int
    answers: Answers
    """Of the rows to train on."""


class Survey:
    """Adds up the examples of both sides."""

    def __init__(self, count: Callable[[Example], Count], most_compared: int) -> None:
        self._count = count
        self._most = most_compared
        self._totals: dict[Side, Total] = {"train": Total(), "validation": Total()}
        self._train: set[int] = set()
        self._validation: Counter[int] = Counter()
        self._duplicates = self._compared = 0
        self._answers = Answers()

    def add(self, side: Side, example: Example) -> None:
        """Count an example. Raises BadRequest and GraderFault for what cannot be trained on."""
        self._totals[side].add(self._count(example))
        if side == "train":
            self._answers.add(example)
        if self._compared < self._most:
            self._compared += 1
            self._compare(side, row_hash(example))

    def found(self) -> Found:
        """Say what there was."""
        overlap = sum(count for row, count in self._validation.items() if row in self._train)
        return Found(
            self._totals["train"],
            self._totals["validation"],
            self._duplicates,
            overlap,
            self._compared,
            self._answers,
        )

    def _compare(self, side: Side, row: int) -> None:
        if side == "validation":
            self._validation[row] += 1
            return
        self._duplicates += row in self._train
        self._train.add(row)


def survey(
    renderer: Renderer,
    spec: TrainingSpec,
    training: tuple[Path, int],
    validation: Path | None,
    stopped: Stopped,
    *,
    most_compared: int = MOST_COMPARED,
) -> Found:
    """Read a job's files; the first comes with its number of rows, of which some are held out.

    Raises TrainingError for what would fail the job, and SurveyStopped.
    """
    found = Survey(counter(renderer, spec), most_compared)
    path, rows = training
    held = measured(rows, spec.validation_split, spec.seed) if validation is None else bytes(rows)
    for place, example in enumerate(_examples(path, stopped, "training_file")):
        _add(found, "validation" if held[place] else "train", example, place, "training_file")
    if validation is not None:
        for place, example in enumerate(_examples(validation, stopped, "validation_file")):
            _add(found, "validation", example, place, "validation_file")
    return found.found()


def row_hash(example: Example) -> int:
    """Give a number of 64 bits that unequal examples hardly ever share."""
    kind = type(example).__name__.encode()
    digest = hashlib.blake2b(msgspec.json.encode(example), digest_size=8, person=kind[:16])
    return int.from_bytes(digest.digest())


def _examples(path: Path, stopped: Stopped, param: str) -> Iterator[Example]:
    with path.open("rb") as stream:
        for found in parse(lines_of(stream)):
            if stopped():
                raise SurveyStopped
            if isinstance(found, Fault):
                raise unrenderable(found.line, found.reason, param)
            yield found.example


def _add(survey: Survey, side: Side, example: Example, place: int, param: str) -> None:
    try:
        survey.add(side, example)
    except BadRequest as fault:
        raise unrenderable(place + 1, fault.message, param) from None
    except GraderFault as fault:
        raise ungradable(place + 1, fault.message, param) from None
