"""A tenant's fine-tuning jobs: accept, show, cancel, follow."""

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import cast

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from service import tracing
from service.adapters.names import adapter_name
from service.adapters.parents import Parent, find_parent
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService, model_not_found
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import FileRow, JobEventRow, JobRow
from service.datasets.repository import FileRepository
from service.errors import BadRequest, Conflict, NotFound
from service.jobs import present
from service.jobs.create_schemas import CreateJob
from service.jobs.following import Hub, StoredEvents
from service.jobs.lifecycle import Action, IllegalTransition, Status, is_terminal
from service.jobs.repository import JobRepository
from service.jobs.resolve import (
    FEW_EXAMPLES,
    FINE_TUNED,
    Facts,
    resolve,
    wanted_parent,
)
from service.jobs.schemas import Job, JobCheckpointList, JobEventList, JobList, Quantization
from service.rendering.examples import RowFormat
from service.tenants.deeds import made
from service.tenants.quotas import Quotas, Use
from service.tenants.used import job_tokens
from service.training.spec import MAX_RANK
from service.wire import new_id, now

SEEDS = 2**31


class Draft(msgspec.Struct, frozen=True):
    """A job that nobody accepted yet, and the files that it is to learn from."""

    job: JobRow
    training: FileRow
    validation: FileRow | None

    @property
    def asked(self) -> Use:
        """What it asks of its tenant's quotas, besides its adapter.

        It is not refused at its end: whoever has any room left may begin one.
        """
        tokens = job_tokens(self.training.tokens, self.job.spec["n_epochs"])
        return Use(queued_jobs=1, trained_tokens_per_month=tokens, stored_bytes=1)


class JobService:
    """What tenants do with jobs. Runtimes work on the same rows through JobRepository's leases.

    `quantization` is the server's, for jobs that leave it to us; `base_model` is the setting that
    named the base, which a job may say in place of the base's public id. `models` finds what a job
    goes on from; `max_rank` is the serving engine's.
    """

    def __init__(
        self,
        database: Database,
        base: BaseDescription,
        models: ModelService,
        quotas: Quotas,
        *,
        quantization: Quantization = "nf4",
        base_model: str = "",
        max_rank: int = MAX_RANK,
    ) -> None:
        self.database = database
        self.base = base
        self.quantization = quantization
        self.models = models
        self.max_rank = max_rank
        self.quotas = quotas
        self.hub = Hub(StoredEvents(database))
        self.base_names = {base.name, base_model} - {""}

    async def create(self, tenant_id: str, body: CreateJob, key_id: str | None = None) -> Job:
        """Accept a job, and queue it; what it trains is accounted to the key.

        Raises BadRequest, NotFound for the model or a file, Conflict for a base adapter that
        cannot be used here, and QuotaExceeded.
        """
        parent = await self.parent(tenant_id, body)
        async with self.database.write() as session:
            draft = await self.draft(session, tenant_id, body, parent)
            if parent is not None:
                await _hold(RevisionRepository(session), tenant_id, parent)
            job, asked = draft.job, draft.asked
            await self.quotas.admit(session, tenant_id, asked, adapter=job.adapter)
            job.key_id = key_id
            await _tell_created(JobRepository(session), job, draft.training)
            return made(present.job(job))

    async def draft(
        self, session: AsyncSession, tenant_id: str, body: CreateJob, parent: Parent | None
    ) -> Draft:
        """Work a job out, and keep nothing.

        Raises BadRequest, and NotFound for a file.
        """
        files = FileRepository(session)
        training = await _file(files, tenant_id, body.training_file, "training_file")
        validation = None
        if body.validation_file is not None:
            validation = await _file(files, tenant_id, body.validation_file, "validation_file")
        job = self._row(tenant_id, body, self._facts(training, validation, parent))
        return Draft(job, training, validation)

    async def retrieve(self, tenant_id: str, job_id: str) -> Job:
        """Show a job. Raises NotFound."""
        async with self.database.read() as session:
            return present.job(await JobRepository(session).get(tenant_id, job_id))

    async def list(
        self,
        tenant_id: str,
        after: str | None,
        limit: int,
        metadata: Mapping[str, str] | None = None,
    ) -> JobList:
        """List jobs, newest first; `metadata` keeps those that carry all its pairs."""
        async with self.database.read() as session:
            found = await JobRepository(session).page(tenant_id, after, limit + 1, metadata)
        return present.job_list(found, limit)

    async def cancel(self, tenant_id: str, job_id: str) -> Job:
        """Cancel a job: at once while nobody trains it, else within a step. Idempotent.

        Raises NotFound, and Conflict when it has succeeded or failed.
        """
        return await self._ask(tenant_id, job_id, Action.CANCEL)

    async def pause(self, tenant_id: str, job_id: str) -> Job:
        """Pause a job: at once while nobody trains it, else within a step. Idempotent.

        Raises NotFound, and Conflict when it has ended or is being cancelled.
        """
        return await self._ask(tenant_id, job_id, Action.PAUSE)

    async def resume(self, tenant_id: str, job_id: str) -> Job:
        """Queue a paused job again, to go on from its checkpoint; or call a pause off. Idempotent.

        Raises NotFound, and Conflict when it has ended or is being cancelled.
        """
        return await self._ask(tenant_id, job_id, Action.RESUME)

    async def _ask(self, tenant_id: str, job_id: str, action: Action) -> Job:
        async with self.database.write() as session:
            jobs = JobRepository(session)
            job = await jobs.get(tenant_id, job_id, lock=True)
            try:
                await jobs.ask(job, action)
            except IllegalTransition:
                raise _refusal(job) from None
        return present.job(job)

    async def events(
        self, tenant_id: str, job_id: str, after: str | None, limit: int
    ) -> JobEventList:
        """List a job's events, newest first. Raises NotFound."""
        async with self.database.read() as session:
            jobs = JobRepository(session)
            await jobs.get(tenant_id, job_id)
            found = await jobs.events(tenant_id, job_id, after, limit + 1)
        return present.event_list(found, limit)

    async def follow(
        self, tenant_id: str, job_id: str, after: str | None
    ) -> AsyncGenerator[Sequence[JobEventRow], None]:
        """Yield events as they come, oldest first, until the job has ended and all are out.

        Yields an empty batch after a silence. Raises NotFound at the first step.
        """
        seq = 0
        if after is not None:
            async with self.database.read() as session:
                jobs = JobRepository(session)
                await jobs.get(tenant_id, job_id)
                seq = await jobs.event_seq(tenant_id, job_id, after)
        async with aclosing(self.hub.follow(tenant_id, job_id, seq)) as batches:
            async for batch in batches:
                yield batch

    async def checkpoints(
        self, tenant_id: str, job_id: str, after: str | None, limit: int
    ) -> JobCheckpointList:
        """List a job's checkpoints, newest first. Raises NotFound."""
        async with self.database.read() as session:
            jobs = JobRepository(session)
            await jobs.get(tenant_id, job_id)
            found = await jobs.checkpoints(tenant_id, job_id, after, limit + 1)
        return present.checkpoint_list(found, limit)

    async def parent(self, tenant_id: str, body: CreateJob) -> Parent | None:
        """Find what a job goes on from, if it is not the base.

        Raises BadRequest, NotFound for the model, and Conflict for one that cannot be used here.
        """
        if body.model not in self.base_names and not body.model.startswith(FINE_TUNED):
            raise model_not_found(body.model)
        wanted = wanted_parent(body)
        if wanted is None:
            return None
        model, param = wanted
        return await find_parent(self.models, tenant_id, model, param)

    def _row(self, tenant_id: str, body: CreateJob, facts: Facts) -> JobRow:
        seed = secrets.randbelow(SEEDS) if body.seed is None else body.seed
        spec, method = resolve(body, facts, seed)
        job_id = new_id("ftjob-")
        return JobRow(
            id=job_id,
            tenant_id=tenant_id,
            status=Status.QUEUED,
            model=self.base.name,
            adapter=adapter_name(body.suffix, job_id),
            suffix=body.suffix,
            training_file=body.training_file,
            validation_file=body.validation_file,
            seed=seed,
            method=msgspec.to_builtins(method),
            spec=msgspec.to_builtins(spec),
            job_metadata=body.metadata,
            integrations=body.integrations,
            publish_alias=None if body.publish is None else body.publish.alias,
            created_at=now(),
            traceparent=tracing.traceparent(),
            cancel_requested=False,
            priority=body.priority,
            attempts=0,
            lease_token=0,
        )

    def _facts(self, training: FileRow, validation: FileRow | None, parent: Parent | None) -> Facts:
        return Facts(
            base=self.base.name,
            linear_modules=self.base.linear_modules,
            context_length=self.base.context_length,
            quantization=self.quantization,
            rows=training.rows or 0,
            validation_file=validation is not None,
            row_format=cast("RowFormat", training.row_format),
            validation_row_format=cast("RowFormat | None", validation and validation.row_format),
            parent=parent,
            max_rank=self.max_rank,
        )


async def _file(files: FileRepository, tenant_id: str, file_id: str, param: str) -> FileRow:
    try:
        file = await files.get(tenant_id, file_id)
    except NotFound as fault:
        raise NotFound(fault.message, param=param) from None
    if file.purpose != "fine-tune":
        message = f"{file_id} has the purpose '{file.purpose}': a job needs 'fine-tune'."
        raise BadRequest(message, param=param)
    if not file.rows:
        raise BadRequest(f"{file_id} holds no examples.", param=param)
    return file


async def _hold(revisions: RevisionRepository, tenant_id: str, parent: Parent) -> None:
    """Raise NotFound if it was deleted since it was found."""
    wanted = parent.base_adapter
    if not await revisions.hold(tenant_id, wanted.adapter, wanted.digest):
        raise model_not_found(parent.model, parent.param)


async def _tell_created(jobs: JobRepository, job: JobRow, file: FileRow) -> None:
    await jobs.add(job)
    jobs.tell(job, f"Created fine-tuning job: {job.id}")
    rows, max_length = file.rows or 0, job.spec["max_length"]
    if rows < FEW_EXAMPLES:
        epochs = f"each is seen {job.spec['n_epochs']} times"
        few = f"Only {rows} examples ({epochs}): {FEW_EXAMPLES} or more are advised"
        jobs.tell(job, few, level="warn")
    if (file.longest_example or 0) > max_length:
        longest = f"The longest example has {file.longest_example} tokens"
        jobs.tell(job, f"{longest}: examples are cut at {max_length}", level="warn")


def _refusal(job: JobRow) -> Conflict:
    if is_terminal(job.status):
        ended = "been " * (job.status == Status.CANCELLED) + job.status
        return Conflict(f"Job {job.id} has already {ended}.", code="job_has_ended")
    return Conflict(f"Job {job.id} is being cancelled.", code="job_is_being_cancelled")
