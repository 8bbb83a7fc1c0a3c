"""Say what a job would be and do, without running it."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from service.base.model_shape import ModelShape
from service.base.wanted import Sharing
from service.datasets.folder import FileFolder
from service.errors import NotFound, ServiceError
from service.jobs import plan_memory, plan_present
from service.jobs.create_schemas import CreateJob
from service.jobs.plan_advice import advise
from service.jobs.plan_reasons import unfit
from service.jobs.plan_schemas import JobPlan, PlannedDevice, PlannedQuota
from service.jobs.plan_survey import Found, Stopped, survey
from service.jobs.runtimes import Report, RuntimeRepository
from service.jobs.schemas import JobError, JobMethod
from service.jobs.service import Draft, JobService
from service.rendering.renderer import Renderer
from service.tenants.quotas import Excess, bounded, first_excess
from service.training.counting import Total, trained_tokens
from service.training.spec import TrainingSpec
from service.training.trainer import TrainingError

MOST_AT_ONCE = 2
"""Of files that are read: a large one takes minutes, and a thread."""

Fault = TrainingError | ServiceError


class _Known(msgspec.Struct, frozen=True):
    """What a plan needs to know besides the files."""

    quotas: list[PlannedQuota]
    excess: Excess | None
    alive: list[Report]
    speed: float | None


class PlanService:
    """Plans what `jobs` would accept."""

    def __init__(
        self,
        jobs: JobService,
        folder: FileFolder,
        renderer: Renderer,
        sharing: Callable[[ModelShape], Sharing],
    ) -> None:
        """`sharing` is what vLLM and training want of a card, by the settings."""
        self._jobs = jobs
        self._folder = folder
        self._renderer = renderer
        self._shape = plan_memory.known_shape(renderer.base.config)
        self._sharing = sharing
        self._reading = asyncio.Semaphore(MOST_AT_ONCE)

    async def plan(self, tenant_id: str, body: CreateJob) -> JobPlan:
        """Plan a job; when cancelled, stop reading its files.

        Raises what creating it would, but for quotas: those are told in the answer.
        """
        parent = await self._jobs.parent(tenant_id, body)
        async with self._jobs.database.read() as session:
            draft = await self._jobs.draft(session, tenant_id, body, parent)
        spec = msgspec.convert(draft.job.spec, TrainingSpec)
        found: Found | None = None
        fault: Fault | None = None
        try:
            found = await self._survey(tenant_id, draft, spec)
        except TrainingError as raised:
            fault = raised
        async with self._jobs.database.read() as session:
            known = await self._known(session, tenant_id, draft, spec)
        if known.excess is not None:
            fault = known.excess.error
        elif found is not None:
            fault = unfit(spec, found, known.alive)
        return self._shown(draft, spec, found, known, fault)

    async def _survey(self, tenant_id: str, draft: Draft, spec: TrainingSpec) -> Found:
        stopped = threading.Event()
        try:
            async with self._reading:
                read = partial(self._read, tenant_id, draft, spec, stopped.is_set)
                return await asyncio.to_thread(read)
        finally:
            stopped.set()

    def _read(self, tenant_id: str, draft: Draft, spec: TrainingSpec, stopped: Stopped) -> Found:
        training, validation = draft.training, draft.validation
        place = partial(self._folder.file, tenant_id)
        try:
            return survey(
                self._renderer,
                spec,
                (place(training.id), training.rows or 0),
                None if validation is None else place(validation.id),
                stopped,
            )
        except FileNotFoundError as gone:  # deleted since the row was read
            file_id = Path(gone.filename).name
            param = "training_file" if file_id == training.id else "validation_file"
            raise NotFound(f"No such File object: {file_id}", param=param) from None

    async def _known(
        self, session: AsyncSession, tenant_id: str, draft: Draft, spec: TrainingSpec
    ) -> _Known:
        quotas = self._jobs.quotas
        asked = await quotas.with_adapter(session, tenant_id, draft.asked, draft.job.adapter)
        limits = await quotas.limits(session, tenant_id)
        wanted = {*plan_present.QUOTAS, *bounded(limits, asked)}
        used = await quotas.use(session, tenant_id, wanted)
        told = await RuntimeRepository(session).told(self._jobs.base.name)
        return _Known(
            quotas=plan_present.quotas(limits, used, asked),
            excess=first_excess(limits, used, asked),
            alive=told.alive,
            speed=told.tokens_per_second.get(spec.method),
        )

    def _shown(
        self,
        draft: Draft,
        spec: TrainingSpec,
        found: Found | None,
        known: _Known,
        fault: Fault | None,
    ) -> JobPlan:
        job, rows = draft.job, draft.training.rows or 0
        train = None if found is None else found.train
        tokens = None if train is None else trained_tokens(spec, train)
        hardware, cards = self._devices(spec, train, known.alive)
        return JobPlan(
            object="fine_tuning.job.plan",
            model=job.model,
            training_file=job.training_file,
            validation_file=job.validation_file,
            seed=job.seed,
            method=msgspec.convert(job.method, JobMethod),
            data=None if found is None else plan_present.data(found, rows),
            steps=None if train is None else plan_present.steps(spec, train),
            trained_tokens=tokens,
            advice=[] if found is None else advise(found, spec, rows),
            hardware=hardware,
            cards=cards,
            tokens_per_second=known.speed,
            estimated_seconds=round(tokens / known.speed) if tokens and known.speed else None,
            quotas=known.quotas,
            admitted=fault is None,
            reason=None if fault is None else _reason(fault),
        )

    def _devices(
        self, spec: TrainingSpec, train: Total | None, alive: Sequence[Report]
    ) -> tuple[list[PlannedDevice], list[PlannedDevice]]:
        shape = self._shape
        if shape is None:
            return [], []
        here = [plan_memory.on(one.hardware, shape, spec, train) for one in alive]
        return here, plan_memory.on_cards(shape, spec, train, self._sharing(shape))


def _reason(fault: Fault) -> JobError:
    code = fault.code or "server_error"
    return JobError(code=code, message=fault.message, param=fault.param)
