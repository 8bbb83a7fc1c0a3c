"""Continuous batching, for training: at every step each task contributes its next examples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial

import torch

from service.base.loading import LoadedBase, let_go
from service.base.memory_plan import MemoryPlan, admit
from service.base.segmented.base import SegmentedBase
from service.base.segmented.batch import go_on
from service.base.segmented.optimizer import AdamW
from service.rendering.renderer import Renderer
from service.training.batch import row
from service.training.batch.examples import Piece, Sums, Sweep
from service.training.batch.faults import no_room, too_long
from service.training.batch.job import Job
from service.training.batch.keeper import Keeper
from service.training.batch.packing import QUANTUM, Packer
from service.training.batch.plan import Plan, plan
from service.training.batch.resident import Resident
from service.training.trainer import TrainingEvent, TrainingOutcome, TrainingTask

TOKENS_AT_ONCE = 16384
"""In one row, unless a single example is longer."""
_SEEDS = 2**32

Report = Callable[[TrainingEvent], None]
ShouldStop = Callable[[], bool]


class BatchTrainer:
    """Trains up to `slots` tasks in one batch on one resident base. Implements `Trainer`, too.

    A task's adapter does not depend on who shares the batch. One thread does everything here,
    except `plan`; reports come from a thread of each task's own.
    """

    def __init__(
        self,
        loaded: LoadedBase,
        base: SegmentedBase,
        renderer: Renderer,
        checkpoint_steps: int,
        *,
        slots: int = 16,
        rank: int = 16,
        tokens_at_once: int = TOKENS_AT_ONCE,
        quantum: int = QUANTUM,
        dtype: torch.dtype = torch.float32,
        pause: Callable[[], None] = go_on,
        memory: MemoryPlan | None = None,
    ) -> None:
        """Make slots for adapters of `rank`; they are widened when a greater one comes.

        `base` is `loaded`'s model with segments in; others may use it between steps, and whenever
        `pause` is called. Tasks share a row by `quantum` tokens. By the plan of the device's
        `memory`, what could never fit is refused beforehand.
        """
        self._loaded = loaded
        self._renderer = renderer
        self._checkpoint_steps = checkpoint_steps
        self._resident = Resident(base, slots, rank, dtype, pause)
        self._tokens_at_once = self._budget = self.most_tokens = tokens_at_once
        self.row_tokens = 0
        self._memory = memory
        self._shapes = self._resident.base.shapes
        self._packers = {learning: Packer(quantum) for learning in (True, False)}
        self._jobs: dict[int, Job] = {}
        self._cramped: set[int] = set()
        """Slots whose next example, alone in a row, found no memory once."""
        self._suspects: set[int] = set()
        """Slots that were in a row that failed: each is alone in its next one."""

    @property
    def resident(self) -> Resident:
        """The slots."""
        return self._resident

    @property
    def active(self) -> int:
        """How many tasks are in the batch."""
        return len(self._jobs)

    def plan(self, task: TrainingTask) -> Plan:
        """Do, in any thread, what does not need the base. Raises TrainingError."""
        made = plan(self._loaded, self._renderer, task, self._shapes)
        if self._memory is not None:
            refusal = admit(self._memory, task.spec.lora, made.longest)
            if refusal is not None:
                raise no_room(refusal)
        return made

    def add(
        self, task: TrainingTask, report: Report, should_stop: ShouldStop
    ) -> "Future[TrainingOutcome]":
        """Let a task join; see `join`. Raises TrainingError, also later through the future."""
        return self.join(self.plan(task), report, should_stop)

    def join(
        self, plan: Plan, report: Report, should_stop: ShouldStop
    ) -> "Future[TrainingOutcome]":
        """Let a planned task take part from the next step on.

        The future is done once all of its reports and files are. `should_stop` is asked once after
        each of its optimizer steps. Tenants share the rows by their weights.
        Raises TrainingError and NoFreeSlot.
        """
        task, resident = plan.task, self._resident
        slot = resident.allocate(task.spec.lora, task.spec.seed % _SEEDS)
        held = resident.slots[slot]
        name = self._loaded.description.name
        keeper = Keeper(task.workdir, plan.checkpoints, held, name, report)
        job = Job(
            plan,
            resident,
            slot,
            keeper,
            should_stop=should_stop,
            checkpoint_steps=self._checkpoint_steps,
        )
        self._jobs[slot] = job
        self._guard(job, lambda: self._begin(job, plan))
        return job.result

    def step(self) -> bool:
        """Take one row to learn from and one to measure with, and the steps that are due.

        Tells whether there was anything to do. A fault within a row ends the task that has it when
        it is alone, any other fault of ours ends all.
        """
        for job in list(self._jobs.values()):
            if job.fault is not None:
                self._drop(job, job.fault)
        self.row_tokens = 0
        try:
            learned = self._row(learning=True)
            return self._row(learning=False) or learned
        except Exception as fault:  # noqa: BLE001  raised to everyone who waits for a task
            for job in list(self._jobs.values()):
                self._drop(job, fault)
            return True

    def train(self, task: TrainingTask, report: Report, should_stop: ShouldStop) -> TrainingOutcome:
        """See Trainer.train."""
        result = self.add(task, report, should_stop)
        self.run(result)
        return result.result()

    def run(self, *results: "Future[TrainingOutcome]") -> None:
        """Step until these are done."""
        while not all(result.done() for result in results) and self.step():
            pass
        wait(results)

    def close(self) -> None:
        """End the tasks that are left with an error."""
        for job in list(self._jobs.values()):
            self._drop(job, RuntimeError("the trainer was closed"))

    def _begin(self, job: Job, plan: Plan) -> None:
        if plan.resumed is not None:
            self._resident.restore(job.slot, plan.resumed)
        elif plan.parent is not None:
            self._resident.slots.put(job.slot, plan.parent)
        job.begin()

    def _row(self, *, learning: bool) -> bool:
        jobs = [j for j in self._jobs.values() if j.sweep and j.sweep.learning == learning]
        if self._suspects:
            jobs = [job for job in jobs if job.slot == min(self._suspects)]
        waiting = [job.waiting() for job in jobs]
        budget = min(self._budget, self.most_tokens)
        counts = self._packers[learning].fill(waiting, budget)
        taken = {int(slot): count for slot, count in counts.items()}
        if not taken:
            return False
        pieces = {slot: self._sweep(slot).next(count) for slot, count in taken.items()}
        tokens = sum(one.length for piece in pieces.values() for one in piece.examples)
        self.row_tokens = max(self.row_tokens, tokens)
        run = row.learn if learning else row.measure
        if learning:
            self._resident.base.recompute(self._recomputes(tokens, taken.keys()))
        self._resident.pause()
        try:
            sums = run(self._resident, pieces)
        except torch.OutOfMemoryError:
            self._shrink(pieces)
        except Exception as fault:  # noqa: BLE001  raised to whoever waits for the task that has it
            self._suspect(pieces, fault)
        else:
            self._note(taken, sums)
        return True

    def _recomputes(self, tokens: int, slots: Collection[int]) -> bool:
        """Tell whether a row has memory only if layers keep little: by the plan, or as was seen."""
        planned = self._memory is not None and self._memory.recomputes_row(tokens)
        return planned or self._cramped.issuperset(slots)

    def _suspect(self, pieces: Mapping[int, Piece], fault: Exception) -> None:
        """Find out whose fault it is: whoever fails alone ends with it, and nobody else."""
        if len(pieces) == 1:
            self._drop(self._jobs[next(iter(pieces))], fault)
            return
        self._suspects |= pieces.keys()
        self._rewind(pieces)

    def _note(self, taken: Mapping[int, int], sums: Mapping[int, Sums]) -> None:
        self._cramped -= taken.keys()
        self._suspects -= taken.keys()
        for slot, count in taken.items():
            self._sweep(slot).add(count, sums[slot])
        done = [self._jobs[slot] for slot in taken if self._sweep(slot).done]
        self._optimize([job for job in done if job.sweep and job.sweep.learning])
        for job in done:
            if job.slot in self._jobs:
                self._resident.pause()
                self._guard(job, job.swept)

    def _optimize(self, jobs: Sequence[Job]) -> None:
        settings: dict[int, AdamW] = {}
        for job in jobs:
            self._guard(job, partial(job.settle, settings))
        for slot, wanted in settings.items():
            self._resident.pause()
            self._resident.optimizer.step({slot: wanted})

    def _shrink(self, pieces: Mapping[int, Piece]) -> None:
        """Take half as much at once from now on; what was summed up may be half of a row.

        What cannot be halved is tried once more, and its layers keep little then.
        """
        examples = [one.length for piece in pieces.values() for one in piece.examples]
        if len(examples) > 1:
            self._budget = max(1, sum(examples) // 2)
        elif pieces.keys() <= self._cramped:
            self._drop(self._jobs[next(iter(pieces))], too_long(examples[0]))
            return
        else:
            self._cramped |= pieces.keys()
        self._rewind(pieces)
        let_go()

    def _rewind(self, pieces: Mapping[int, Piece]) -> None:
        for slot in pieces:
            self._sweep(slot).rewind()
            self._resident.forget_gradient(slot)

    def _sweep(self, slot: int) -> Sweep:
        sweep = self._jobs[slot].sweep
        assert sweep is not None
        return sweep

    def _guard(self, job: Job, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as fault:  # noqa: BLE001  raised to who waits for this task
            self._drop(job, fault)
        else:
            if job.slot in self._jobs and job.sweep is None:
                self._leave(job)

    def _drop(self, job: Job, fault: BaseException) -> None:
        job.fail(fault)
        self._leave(job)

    def _leave(self, job: Job) -> None:
        del self._jobs[job.slot]
        self._cramped.discard(job.slot)
        self._suspects.discard(job.slot)
        self._resident.free(job.slot)
        if not self._jobs:
            self._budget = self._tokens_at_once
