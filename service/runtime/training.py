"""The training runtime: the process that owns a base and turns claimed jobs into adapters."""

import asyncio
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal

from sqlalchemy import select

from adapters_store import FilesystemAdapterStore
from service.base.description import BaseDescription, BaseModelError, describe
from service.database import Database
from service.database.models import JobRow
from service.datasets.service import FileService
from service.jobs.lifecycle import is_terminal
from service.jobs.repository import JobRepository
from service.rendering.renderer import Renderer
from service.runtime.training_job import work_on
from service.runtime.training_parts import Parts, Prepared
from service.settings import Settings
from service.telemetry import configure_logging, logger

IDLE_SECONDS = 0.5
"""Between two looks for a job."""

Asked = Literal["nf4", "none", "auto"]

_log = logger(__name__)


def run(settings: Settings, runtime_id: str | None = None) -> None:
    """Train queued jobs until SIGTERM or SIGINT; a job under way is given back, to be resumed.

    Exits with 1 after a fault of ours, which may have left torch unusable: the supervisor starts
    a fresh process.
    """
    configure_logging(settings.log_level)
    owner = runtime_id or f"training-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        asyncio.run(_run(settings, owner))
    except BaseModelError as fault:
        _log.error("base.not_loaded", reason=str(fault))
        sys.exit(1)
    except Exception:  # noqa: BLE001  logged, and told by the exit code
        _log.exception("training.died", runtime_id=owner)
        sys.exit(1)


async def _run(settings: Settings, owner: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    base = describe(settings.base_model, settings.base_name)
    database = Database(settings.sqlalchemy_url)
    parts = _parts(settings, owner, base, database)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="trainer") as thread:
            # Before the first claim: a base that cannot be loaded is no job's fault.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(thread, parts.prepare, settings.quantization)
            _log.info("training.started", runtime_id=owner, base=base.name)
            await work(parts, thread, stop)
    finally:
        await database.close()
    _log.info("training.stopped", runtime_id=owner)


async def work(parts: Parts, thread: Executor, stop: asyncio.Event) -> None:
    """Claim and train, one job after the other, until `stop`. Raises faults that are ours."""
    await _sweep(parts)
    while not stop.is_set():
        async with parts.database.write() as session:
            job = await JobRepository(session).claim(parts.owner, parts.lease_seconds)
        if job is not None:
            await work_on(parts, job, thread, stop)
            continue
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), IDLE_SECONDS)


async def _sweep(parts: Parts) -> None:
    """Remove the folders of jobs that ended without their runtime, or that are gone."""
    there = {folder.name for folder in parts.workdirs.glob("*")}
    async with parts.database.read() as session:
        rows = await session.execute(select(JobRow.id, JobRow.status).where(JobRow.id.in_(there)))
        going_on = {job_id for job_id, status in rows if not is_terminal(status)}
    for name in there - going_on:
        await asyncio.to_thread(shutil.rmtree, parts.workdirs / name, ignore_errors=True)


def _parts(settings: Settings, owner: str, base: BaseDescription, database: Database) -> Parts:
    root: Path = settings.data_dir.resolve()
    renderer = Renderer(base)
    files = FileService(database, root, renderer, settings.max_file_bytes)
    return Parts(
        owner=owner,
        lease_seconds=settings.lease_seconds,
        database=database,
        store=FilesystemAdapterStore(root / "adapters"),
        base=base,
        workdirs=root / "jobs",
        examples=files.examples,
        prepare=_one_base(settings, base, renderer),
    )


def _one_base(
    settings: Settings, base: BaseDescription, renderer: Renderer
) -> Callable[[Asked], Prepared]:
    """Keep the base as the last job wanted it: never two copies at once."""
    kept: dict[Asked, Prepared] = {}

    def prepare(quantization: Asked) -> Prepared:
        if quantization not in kept:
            kept.clear()
            kept[quantization] = _load(settings, base, renderer, quantization)
        return kept[quantization]

    return prepare


def _load(
    settings: Settings, base: BaseDescription, renderer: Renderer, quantization: Asked
) -> Prepared:
    # Only this process pays for torch, in the thread that uses it.
    from service.base.loading import load_base
    from service.runtime.generation import threads
    from service.training.sft import SftTrainer

    loaded = load_base(base, quantization, threads(settings))
    _log.info("base.loaded", base=base.name, quantization=loaded.quantization, device=loaded.device)
    trainer = SftTrainer(loaded, renderer, settings.checkpoint_steps)
    return Prepared(trainer, loaded.quantization, loaded.compute_dtype)
