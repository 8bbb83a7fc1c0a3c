"""Claimed jobs into adapters: as many at once as the base has slots for."""

import asyncio
import shutil
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.faults import AWAY
from service.database.models import JobRow
from service.jobs.lifecycle import is_terminal
from service.jobs.repository import JobRepository
from service.runtime.lease import claim
from service.runtime.training_job import work_on
from service.runtime.training_parts import Parts
from service.telemetry import logger
from service.waiting import pass_time

IDLE_SECONDS = 0.5
"""Between two looks for a job."""
PATIENCE_SECONDS = 2.0
"""How old a job is before others make room for it: until then a free runtime takes it."""
TIDY_SECONDS = 60.0
"""Between two looks for folders that nobody needs."""

_log = logger(__name__)


async def work(parts: Parts, stop: asyncio.Event) -> None:
    """Claim jobs and train them, side by side, until `stop`.

    A fault of ours gives its job back, for another try; it is raised only where the device no
    longer computes.
    """
    bench = _Bench(parts, stop)
    jobs: set[asyncio.Task[None]] = set()
    tidying = asyncio.create_task(_keep_tidy(parts, stop))
    with ThreadPoolExecutor(parts.at_once, thread_name_prefix="job") as threads:
        try:
            while not stop.is_set():
                full = len(jobs) == parts.at_once
                if not full and (job := await _claim(parts)) is not None:
                    jobs.add(asyncio.create_task(bench.work_on(job, threads)))
                    continue
                if full:
                    await bench.make_room()
                jobs = await _pass_time(jobs, stop)
        finally:
            stop.set()
            await asyncio.gather(*jobs, tidying)


async def _claim(parts: Parts) -> JobRow | None:
    return await claim(parts.database, partial(_take, parts))


async def _take(parts: Parts, session: AsyncSession) -> JobRow | None:
    return await JobRepository(session).claim(parts.owner, parts.lease_seconds, parts.quotas)


class _Bench:
    """The places of one runtime, and which of the jobs in them is to be put down."""

    def __init__(self, parts: Parts, stop: asyncio.Event) -> None:
        self._parts = parts
        self._stop = stop
        self._giving_way: set[str] = set()

    async def work_on(self, job: JobRow, threads: Executor) -> None:
        """Bring a job as far as it may go."""
        try:
            await work_on(self._parts, job, threads, lambda: self._interrupts(job.id))
        except Exception:
            if not await asyncio.to_thread(self._parts.healthy):
                raise
        finally:
            self._giving_way.discard(job.id)

    async def make_room(self) -> None:
        """Have a job put down if another tenant waits that has less than its share."""
        try:
            async with self._parts.database.read() as session:
                jobs = JobRepository(session)
                job_id = await jobs.to_give_way(self._parts.owner, PATIENCE_SECONDS)
        except AWAY:
            _log.warning("job.no_room_made", exc_info=True)
            return
        if job_id is not None:
            self._giving_way.add(job_id)

    def _interrupts(self, job_id: str) -> str | None:
        if self._stop.is_set():
            return "Training was interrupted by a shutdown and will resume"
        if job_id in self._giving_way:
            return "Training made room for another tenant's job and will resume"
        return None


async def _pass_time(jobs: set[asyncio.Task[None]], stop: asyncio.Event) -> set[asyncio.Task[None]]:
    """Wait for a job's end, for the stop, or a while. Raises what ended a job."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait(
            {*jobs, stopping}, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        stopping.cancel()
    for job in done & jobs:
        job.result()
    return jobs - done


async def _keep_tidy(parts: Parts, stop: asyncio.Event) -> None:
    """Sweep now and again: a paused job that is cancelled leaves its checkpoints to nobody."""
    while not stop.is_set():
        try:
            await _sweep(parts)
        except AWAY:
            _log.warning("job.not_swept", exc_info=True)
        await pass_time(stop, TIDY_SECONDS)


async def _sweep(parts: Parts) -> None:
    """Remove the folders of jobs that ended without their runtime, or that are gone."""
    there = {folder.name for folder in parts.workdirs.glob("*")}
    async with parts.database.read() as session:
        rows = await session.execute(select(JobRow.id, JobRow.status).where(JobRow.id.in_(there)))
        going_on = {job_id for job_id, status in rows if not is_terminal(status)}
    for name in there - going_on:
        await asyncio.to_thread(shutil.rmtree, parts.workdirs / name, ignore_errors=True)
