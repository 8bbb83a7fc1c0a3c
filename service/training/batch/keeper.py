"""What a task leaves on disk, and what it tells, in its outbox's thread."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path

from torch import Tensor

from service.base.probes import Probes
from service.base.segmented.slots import Held
from service.training.batch import states
from service.training.batch.outbox import Outbox
from service.training.batch.states import State
from service.training.checkpoints import Checkpoints
from service.training.trainer import CheckpointDue, EpochDone, TrainingEvent, TrainingOutcome

WAITS_SECONDS = 0.001
"""Between turns of others, for a disk."""


class Keeper:
    """Never makes the training thread wait for a disk or a report, with one exception.

    Copies are as large as the adapter with its moments: there is never more than one at a time,
    besides the best weights of a task that stops early.
    """

    def __init__(
        self,
        workdir: Path,
        checkpoints: Checkpoints,
        held: Held,
        base_name: str,
        report: Callable[[TrainingEvent], None],
    ) -> None:
        self._workdir = workdir
        self._checkpoints = checkpoints
        self._held = held
        self._base_name = base_name
        self._report = report
        self._outbox = Outbox(workdir.name)
        self._last: Future[None] | None = None
        self._written: tuple[int, Path] | None = None
        """After which step, and where, the last adapter was; the outbox's thread alone knows."""

    @property
    def fault(self) -> BaseException | None:
        """What went wrong when telling or writing."""
        return self._outbox.fault

    def tell(self, event: TrainingEvent) -> None:
        """Report an event, after all before it."""
        self._outbox.put(lambda: self._report(event))

    def wait(self, pause: Callable[[], None]) -> None:
        """Wait until the last copy was written, while others have turns."""
        if self._last is None:
            return
        while not wait([self._last], timeout=WAITS_SECONDS).done:
            pause()
        self._last.result()

    def epoch(self, epoch: int, state: State, probes: Probes) -> None:
        """Hand an epoch's adapter over."""
        step, metrics = state.progress.step, dict(state.progress.metrics)
        weights = state.weights

        def hand_over() -> None:
            adapter = self._write("epoch", step, weights)
            self._report(EpochDone(epoch, step, adapter, metrics, probes))

        self._last = self._outbox.put(hand_over)

    def checkpoint(self, state: State) -> None:
        """Keep a state to resume from."""
        step = state.progress.step
        self.tell(CheckpointDue(step))
        self._last = self._outbox.put(
            lambda: self._checkpoints.write(step, lambda folder: states.write(state, folder))
        )

    def end(self, result: "Future[TrainingOutcome]", state: State, probes: Probes | None) -> None:
        """Write the adapter and set the result, once all before is told and kept.

        Without probes it has stopped.
        """
        made = state.made
        self._outbox.end(
            result,
            lambda: TrainingOutcome(
                adapter=self._write("final", made.step, made.weights),
                steps=made.step,
                trained_tokens=state.progress.tokens,
                metrics=dict(made.metrics),
                probes=probes,
            ),
        )

    def fail(self, result: "Future[TrainingOutcome]", fault: BaseException) -> None:
        """Set the fault as the result, once all before is told and kept."""

        def fails() -> TrainingOutcome:
            raise fault

        self._outbox.end(result, fails)

    def _write(self, name: str, step: int, weights: Mapping[str, Tensor]) -> Path:
        """Write the adapter after a step, unless it was the last that was written."""
        if self._written is None or self._written[0] != step:
            folder = self._workdir / name
            shutil.rmtree(folder, ignore_errors=True)
            states.write_adapter(self._held, weights, folder, self._base_name)
            self._written = step, folder
        return self._written[1]
