"""Claimed jobs into adapters: as many at once as the base has slots for."""

import asyncio
import shutil
from concurrent.futures import Executor, ThreadPoolExecutor

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from service.database.models import JobRow
from service.errors import Unavailable
from service.jobs.lifecycle import is_terminal
from service.jobs.repository import JobRepository
from service.runtime.training_job import work_on
from service.runtime.training_parts import Parts
from service.telemetry import logger

IDLE_SECONDS = 0.5
"""Between two looks for a job."""

_log = logger(__name__)


async def work(parts: Parts, stop: asyncio.Event) -> None:
    """Claim jobs and train them, side by side, until `stop`.

    A fault of ours gives its job back, for another try; it is raised only where the device no
    longer computes.
    """
    await _sweep(parts)
    jobs: set[asyncio.Task[None]] = set()
    with ThreadPoolExecutor(parts.at_once, thread_name_prefix="job") as threads:
        try:
            while not stop.is_set():
                job = await _claim(parts) if len(jobs) < parts.at_once else None
                if job is not None:
                    jobs.add(asyncio.create_task(_work_on(parts, job, threads, stop)))
                    continue
                jobs = await _pass_time(jobs, stop)
        finally:
            stop.set()
            await asyncio.gather(*jobs)


async def _claim(parts: Parts) -> JobRow | None:
    try:
        async with parts.database.write() as session:
            return await JobRepository(session).claim(parts.owner, parts.lease_seconds)
    except (DBAPIError, OSError, Unavailable):
        # The base has other work; the database may come back.
        _log.warning("job.not_claimed", exc_info=True)
        return None


async def _work_on(parts: Parts, job: JobRow, threads: Executor, stop: asyncio.Event) -> None:
    try:
        await work_on(parts, job, threads, stop)
    except Exception:
        if not await asyncio.to_thread(parts.healthy):
            raise


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


async def _sweep(parts: Parts) -> None:
    """Remove the folders of jobs that ended without their runtime, or that are gone."""
    there = {folder.name for folder in parts.workdirs.glob("*")}
    async with parts.database.read() as session:
        rows = await session.execute(select(JobRow.id, JobRow.status).where(JobRow.id.in_(there)))
        going_on = {job_id for job_id, status in rows if not is_terminal(status)}
    for name in there - going_on:
        await asyncio.to_thread(shutil.rmtree, parts.workdirs / name, ignore_errors=True)
