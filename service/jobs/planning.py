"""Say what a job would be and do, without running it."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from service.datasets.folder import FileFolder
from service.errors import InvalidTrainingFile, NotFound
from service.jobs import plan_memory
from service.jobs.create_schemas import CreateJob
from service.jobs.plan_advice import advise
from service.jobs.plan_present import data_of, steps_of
from service.jobs.plan_reasons import unfit
from service.jobs.plan_schemas import JobPlan, PlannedQuota
from service.jobs.plan_survey import Found, Stopped, survey
from service.jobs.runtimes import Report, RuntimeRepository
from service.jobs.schemas import JobError, JobMethod
from service.jobs.service import Draft, JobService
from service.rendering.renderer import Renderer
from service.tenants.quotas import Excess, Use, first_excess
from service.tenants.used import has_adapter
from service.training.counting import trained_tokens
from service.training.spec import TrainingSpec
from service.training.trainer import TrainingError

MOST_AT_ONCE = 2
"""Of files that are read: a large one takes minutes, and a thread."""
SHOWN = ("queued_jobs", "trained_tokens_per_month", "adapters")


class PlanService:
    """Plans what `jobs` would accept."""

    def __init__(self, jobs: JobService, folder: FileFolder, renderer: Renderer) -> None:
        self._jobs = jobs
        self._folder = folder
        self._renderer = renderer
        self._shape = plan_memory.known_shape(renderer.base.config)
        self._reading = asyncio.Semaphore(MOST_AT_ONCE)

    async def plan(self, tenant_id: str, body: CreateJob) -> JobPlan:
        """Plan a job; when cancelled, stop reading its files.

        Raises what creating it would, but for quotas: those are told in the answer.
        """
        parent = await self._jobs.parent(tenant_id, body)
        async with self._jobs.database.read() as session:
            draft = await self._jobs.draft(session, tenant_id, body, parent)
        spec = msgspec.convert(draft.job.spec, TrainingSpec)
        found, reason = await self._survey(tenant_id, draft, spec)
        async with self._jobs.database.read() as session:
            quotas, excess = await self._quotas(session, tenant_id, draft)
            runtimes = RuntimeRepository(session)
            alive = await runtimes.alive(self._jobs.base.name)
            speed = await runtimes.speed(self._jobs.base.name, spec.method)
        if excess is not None:
            reason = JobError(code="insufficient_quota", message=excess.message, param=None)
        elif found is not None:
            reason = unfit(spec, found, alive)
        return self._shown(draft, spec, found, alive, speed, quotas, reason)

    async def _survey(
        self, tenant_id: str, draft: Draft, spec: TrainingSpec
    ) -> tuple[Found | None, JobError | None]:
        stopped = threading.Event()
        try:
            async with self._reading:
                read = partial(self._read, tenant_id, draft, spec, stopped.is_set)
                return await asyncio.to_thread(read), None
        except TrainingError as fault:
            return None, JobError(code=fault.code, message=fault.message, param=fault.param)
        except InvalidTrainingFile as fault:
            return None, JobError(code=fault.code, message=fault.message, param="training_file")
        finally:
            stopped.set()

    def _read(
        self, tenant_id: str, draft: Draft, spec: TrainingSpec, stopped: Stopped
    ) -> Found:
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
            raise NotFound(f"No such File object: {file_id}", param="training_file") from None

    async def _quotas(
        self, session: AsyncSession, tenant_id: str, draft: Draft
    ) -> tuple[list[PlannedQuota], Excess | None]:
        quotas, asked = self._jobs.quotas, draft.asked
        if not await has_adapter(session, tenant_id, draft.job.adapter):
            asked = msgspec.structs.replace(asked, adapters=1)
        limits = await quotas.limits(session, tenant_id)
        used = await quotas.use(session, tenant_id)
        return _quotas_shown(limits, used, asked), first_excess(limits, used, asked)

    def _shown(
        self,
        draft: Draft,
        spec: TrainingSpec,
        found: Found | None,
        alive: list[Report],
        speed: float | None,
        quotas: list[PlannedQuota],
        reason: JobError | None,
    ) -> JobPlan:
        train = None if found is None else found.train
        tokens = None if train is None else trained_tokens(spec, train)
        rows, shape = draft.training.rows or 0, self._shape
        known = None if shape is None else partial
        return JobPlan(
            object="fine_tuning.job.plan",
            model=draft.job.model,
            training_file=draft.training.id,
            validation_file=draft.job.validation_file,
            seed=draft.job.seed,
            method=msgspec.convert(draft.job.method, JobMethod),
            data=None if found is None else data_of(found, rows),
            steps=None if train is None else steps_of(spec, train),
            trained_tokens=tokens,
            advice=[] if found is None else advise(found, spec, rows),
            hardware=[],
            cards=[],
            tokens_per_second=speed,
            estimated_seconds=None if not (tokens and speed) else round(tokens / speed),
            quotas=quotas,
            admitted=reason is None,
            reason=reason,
        )
