"""The batch for callers in many threads: one thread trains, the others wait for their own task."""

from collections import deque
from concurrent.futures import Future
from threading import Condition, Thread

import msgspec

from service.base.segmented.slots import NoFreeSlot
from service.training.batch.plan import Plan
from service.training.batch.trainer import BatchTrainer, Report, ShouldStop
from service.training.trainer import TrainingOutcome, TrainingTask


class _Arrival(msgspec.Struct, frozen=True):
    plan: Plan
    report: Report
    should_stop: ShouldStop
    tenant: str
    joined: "Future[Future[TrainingOutcome]]"


class BatchLoop:
    """Implements `Trainer` for any number of threads; tasks beyond the slots wait their turn.

    Owns the trainer from now on: nobody else may use it.
    """

    def __init__(self, trainer: BatchTrainer) -> None:
        self._trainer = trainer
        self._arrivals: deque[_Arrival] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name="batch")
        self._thread.start()

    def train(
        self, task: TrainingTask, report: Report, should_stop: ShouldStop, tenant: str = ""
    ) -> TrainingOutcome:
        """See Trainer.train."""
        plan = self._trainer.plan(task)
        arrival = _Arrival(plan, report, should_stop, tenant, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the trainer was closed")
            self._arrivals.append(arrival)
            self._changed.notify()
        return arrival.joined.result().result()

    def close(self) -> None:
        """Give the base back; tasks that are left end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._arrivals or self._trainer.active
                )
                self._let_in()
            self._trainer.step()
        self._trainer.close()
        for arrival in self._arrivals:
            arrival.joined.set_exception(RuntimeError("the trainer was closed"))

    def _let_in(self) -> None:
        while self._arrivals:
            one = self._arrivals[0]
            try:
                joined = self._trainer.join(one.plan, one.report, one.should_stop, one.tenant)
            except NoFreeSlot:
                return
            except Exception as fault:  # noqa: BLE001  raised to who waits for this task
                one.joined.set_exception(fault)
            else:
                one.joined.set_result(joined)
            self._arrivals.popleft()
