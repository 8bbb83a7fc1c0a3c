"""One task in the batch: which examples come next, and what happens when they went through."""

import math
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from service.base.segmented.optimizer import AdamW
from service.training.batch.examples import Sweep
from service.training.batch.faults import non_finite
from service.training.batch.keeper import Keeper
from service.training.batch.packing import Waiting
from service.training.batch.plan import Plan
from service.training.batch.resident import Resident
from service.training.batch.row import score
from service.training.batch.states import Metrics, State
from service.training.early_stopping import is_over, watch
from service.training.probing import Prober
from service.training.trainer import (
    BestTaken,
    Evaluated,
    StepDone,
    StoppedEarly,
    TrainingOutcome,
)

PRIORITY_DOUBLES = 50
"""So much more priority is twice the share of what a tenant trains. None is so low that a task
stands still: only after a step can it stop."""


class Job:
    """Owns a slot until it is over. Everything here is called by the training thread."""

    def __init__(
        self,
        plan: Plan,
        resident: Resident,
        slot: int,
        keeper: Keeper,
        *,
        should_stop: Callable[[], bool],
        checkpoint_steps: int,
    ) -> None:
        self.slot = slot
        self.result: Future[TrainingOutcome] = Future()
        self.sweep: Sweep | None = None
        self._plan = plan
        self._resident = resident
        self._keeper = keeper
        self._tenant = plan.task.tenant or plan.task.id
        self._should_stop = should_stop
        self._checkpoint_steps = checkpoint_steps
        self._progress = plan.progress
        self._best = None if plan.resumed is None else plan.resumed.best
        self._stopping = False
        self._prober = Prober(
            plan.probes, partial(score, resident, None), partial(score, resident, slot)
        )

    @property
    def fault(self) -> BaseException | None:
        """What went wrong when telling or writing."""
        return self._keeper.fault

    def begin(self) -> None:
        """Start, or go on from the checkpoint; the base itself is measured first."""
        self._keeper.tell(self._plan.started)
        self._prober.begin()
        if self._progress.step == 0 and self._plan.validation:
            self.sweep = self._plan.measuring()
        else:
            self._go_on()

    def waiting(self) -> Waiting:
        """Tell what it could contribute to a row."""
        lengths = self.sweep.lengths if self.sweep else []
        task = self._plan.task
        share = 2 ** (task.priority / PRIORITY_DOUBLES)
        return Waiting(str(self.slot), self._tenant, lengths, task.weight, share)

    def settle(self, settings: dict[int, AdamW]) -> None:
        """Say how its slot is to step now. Raises TrainingError if the loss is not a number."""
        assert self.sweep is not None
        if not math.isfinite(self.sweep.loss):
            raise non_finite(f"The loss at step {self._progress.step + 1}")
        clip = self._plan.task.spec.gradient_clip
        settings[self.slot] = AdamW(lr=self._rate, weight_decay=0.0, clip=clip or None)

    def swept(self) -> None:
        """Go on after all examples of the sweep went through, and the optimizer stepped."""
        sweep = self.sweep
        assert sweep is not None
        self.sweep = None
        if sweep.learning:
            self._stepped(sweep)
        else:
            self._measured(sweep)

    def fail(self, fault: BaseException) -> None:
        """End with a fault."""
        self._keeper.fail(self.result, fault)

    @property
    def _rate(self) -> float:
        return self._plan.schedule.rate(self._progress.step)

    @property
    def _ends_epoch(self) -> bool:
        return self._progress.step % self._plan.order.steps_per_epoch == 0

    @property
    def _measures(self) -> bool:
        every = self._plan.task.spec.eval_steps
        due = self._ends_epoch or (every is not None and self._progress.step % every == 0)
        return due and bool(self._plan.validation)

    @property
    def _is_over(self) -> bool:
        return is_over(self._plan.task.spec.early_stopping, self._progress.watch)

    def _stepped(self, sweep: Sweep) -> None:
        rate = self._rate
        self._note(sweep, "train", step=self._progress.step + 1, tokens=sweep.tokens)
        self._keeper.tell(
            StepDone(
                step=self._progress.step,
                total_steps=self._plan.order.total_steps,
                train_loss=sweep.loss,
                train_mean_token_accuracy=sweep.accuracy,
                learning_rate=rate,
                tokens=self._progress.tokens,
                tokens_per_second=sweep.tokens / sweep.seconds,
            )
        )
        self._stopping = self._should_stop()
        if self._measures:
            self.sweep = self._plan.measuring()
        else:
            self._end_step()

    def _measured(self, sweep: Sweep) -> None:
        step = self._progress.step
        if not math.isfinite(sweep.loss):
            raise non_finite(f"The validation loss at step {step}")
        self._note(sweep, "valid", step=step, tokens=0)
        self._keeper.tell(Evaluated(step, sweep.loss, sweep.accuracy))
        if step:
            self._watch(sweep.loss)
            self._end_step()
        else:
            self._go_on()

    def _watch(self, loss: float) -> None:
        """Keep the weights if they are the best so far."""
        rule, before = self._plan.task.spec.early_stopping, self._progress
        if rule is None:
            return
        seen = watch(rule, before.watch, before.step, loss)
        self._progress = msgspec.structs.replace(before, watch=seen)
        if seen.best_step == before.step:
            self._best = self._resident.weights(self.slot)
            self._progress = msgspec.structs.replace(self._progress, best_metrics=before.metrics)

    def _note(self, sweep: Sweep, kind: str, *, step: int, tokens: int) -> None:
        found: Metrics = {f"{kind}_loss": sweep.loss, f"{kind}_mean_token_accuracy": sweep.accuracy}
        before = self._progress
        self._progress = msgspec.structs.replace(
            before, step=step, tokens=before.tokens + tokens, metrics=before.metrics | found
        )

    def _end_step(self) -> None:
        step = self._progress.step
        ends = self._ends_epoch or self._stopping or self._is_over
        if not ends and step % self._checkpoint_steps:
            self._go_on()
            return
        # The checkpoint lies behind the report: a crash in between repeats it, and never loses it.
        state = self._state()
        if self._ends_epoch:
            epoch = step // self._plan.order.steps_per_epoch
            self._keeper.epoch(epoch, state, self._prober.after(step))
        self._keeper.checkpoint(state)
        self._go_on(state)

    def _go_on(self, state: State | None = None) -> None:
        step = self._progress.step
        if step == self._plan.order.total_steps or self._is_over:
            self._tell_of_the_end()
            state = state or self._state()
            self._resident.slots.put(self.slot, state.made.weights)
            self._keeper.end(self.result, state, self._prober.after(state.made.step))
        elif self._stopping:
            self._keeper.end(self.result, state or self._state(), None)
        else:
            self.sweep = self._plan.sweep(step)

    def _tell_of_the_end(self) -> None:
        step, last, seen = self._progress.step, self._plan.order.total_steps, self._progress.watch
        if seen is None:
            return
        if step < last:
            self._keeper.tell(StoppedEarly(step, last, seen.waited))
        if seen.best_step < step:
            self._keeper.tell(BestTaken(seen.best_step, seen.best))

    def _state(self) -> State:
        self._keeper.wait(self._resident.pause)
        weights, moments = self._resident.weights(self.slot), self._resident.moments(self.slot)
        return State(self._progress, weights, moments, self._best)
