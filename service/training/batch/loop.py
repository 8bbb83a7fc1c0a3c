"""The batch for callers in many threads: each waits for its own task, and one steps them all."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock

import msgspec

from service.base.segmented.slots import NoFreeSlot
from service.training.batch.plan import Plan
from service.training.batch.trainer import BatchTrainer, Report, ShouldStop
from service.training.trainer import TrainingOutcome, TrainingTask


class _Arrival(msgspec.Struct, frozen=True):
    plan: Plan
    report: Report
    should_stop: ShouldStop
    joined: "Future[Future[TrainingOutcome]]"


class BatchLoop:
    """Implements `Trainer` for any number of threads; tasks beyond the slots wait their turn.

    `turn` and `close` are for the one thread that uses the base, and nobody else may use the
    trainer. `wake` is called when a turn is wanted.
    """

    def __init__(self, trainer: BatchTrainer, wake: Callable[[], None]) -> None:
        self._trainer = trainer
        self._wake = wake
        self._arrivals: deque[_Arrival] = deque()
        self._door = Lock()
        self._closed = False

    def train(self, task: TrainingTask, report: Report, should_stop: ShouldStop) -> TrainingOutcome:
        """See Trainer.train. Raises RuntimeError once closed."""
        plan = self._trainer.plan(task)
        arrival = _Arrival(plan, report, should_stop, Future())
        with self._door:
            if self._closed:
                raise _closed()
            self._arrivals.append(arrival)
        self._wake()
        return arrival.joined.result().result()

    @property
    def most_tokens(self) -> int:
        """Bounds the tokens of the next rows."""
        return self._trainer.most_tokens

    @most_tokens.setter
    def most_tokens(self, tokens: int) -> None:
        self._trainer.most_tokens = tokens

    @property
    def row_tokens(self) -> int:
        """Tokens of the last turn's longest row."""
        return self._trainer.row_tokens

    @property
    def wanted(self) -> bool:
        """Whether a turn would do something."""
        return bool(self._trainer.active or self._arrivals)

    def turn(self) -> bool:
        """Let tasks in, and take a step with all that are there; tell if there was any to do."""
        self._let_in()
        return self._trainer.step()

    def close(self) -> None:
        """End the tasks that are left with an error."""
        with self._door:
            self._closed = True
        self._trainer.close()
        while self._arrivals:
            self._arrivals.popleft().joined.set_exception(_closed())

    def _let_in(self) -> None:
        while self._arrivals:
            one = self._arrivals[0]
            try:
                joined = self._trainer.join(one.plan, one.report, one.should_stop)
            except NoFreeSlot:
                return
            except Exception as fault:  # noqa: BLE001  raised to who waits for this task
                one.joined.set_exception(fault)
            else:
                one.joined.set_result(joined)
            self._arrivals.popleft()


def _closed() -> RuntimeError:
    return RuntimeError("the trainer was closed")
