"""What is done to a registry, each deed from its beginning to its end, and what it looks like then.

Run by processes that may die at any step of it: a change of a file, a request to object storage, a
statement of the database, a commit.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event, select

from adapters_store import AdapterStore, RevisionRef
from service.adapters.aliases import AliasService
from service.adapters.aliases_repository import AliasRepository
from service.adapters.aliases_schemas import MoveAlias, TargetChoice
from service.adapters.collecting import Collector
from service.adapters.service import ModelService
from service.adapters.storing import adapter_store
from service.base.description import BaseDescription
from service.base.probes import Probe, Probes
from service.database import Database
from service.database.models import JobRow
from service.errors import NotFound
from service.jobs.repository import JobRepository
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.lease import Lease
from service.runtime.ledger import Ledger
from service.runtime.publishing import Publisher
from service.runtime.story import Story
from service.runtime.training_parts import Parts
from service.serving.gate import Rules
from service.settings import BUNDLED_BASE, Settings
from service.tenants.quotas import Quotas
from service.training.trainer import TrainingOutcome
from tests.builders import an_origin
from tests.fakes.engine import FakeEngine
from tests.unit.adapters_store.killing import step

TENANT, ADAPTER, ALIAS, JOB = "acme", "desk", "production", "ftjob-1"
BASE = BaseDescription("lorehouse-tiny", BUNDLED_BASE)
LATER = 4e9
"""When everything is old enough to be collected."""


class Registry:
    """A database and a store, as a process that starts on them has them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.sqlalchemy_url)
        self.store: AdapterStore = adapter_store(settings)
        self.models = ModelService(self.database, self.store, BASE)
        self.aliases = AliasService(self.database, prefetch=lambda _: None)
        engine = self.database.engine.sync_engine
        event.listen(engine, "commit", lambda *_: step())
        if not settings.adapter_store:
            # The database does not know where the files are: in one place is enough.
            event.listen(engine, "before_cursor_execute", lambda *_: step())

    async def publish(self, adapter: Path) -> None:
        """Publish a job's result, once the job is ours again."""
        async with self.database.write() as session:
            jobs = JobRepository(session)
            await jobs.release_owner("runtime")
            job = await jobs.claim("runtime", 60, Quotas())
        if job is not None:
            publisher = Publisher(self._parts(), job, an_origin())
            probes = Probes([Probe([1, 2, 3])])
            outcome = TrainingOutcome(adapter, 1, 1, metrics={}, probes=probes)
            lease = Lease(self.database, job, 60, JobRepository)
            await Ledger(self.database, job, lease, publisher, Story()).succeed(outcome)

    async def move(self, digest: str, seen: int) -> None:
        """Move the alias, as somebody who saw that version."""
        alias = await self.aliases.retrieve(TENANT, ADAPTER, ALIAS)
        if alias.version == seen:
            body = MoveAlias(targets=[TargetChoice(revision=digest)], reason="better")
            await self.aliases.move(TENANT, ADAPTER, ALIAS, body, expected=seen, key_id=None)

    async def roll_back(self, seen: int) -> None:
        """Roll the alias back, as somebody who saw that version."""
        alias = await self.aliases.retrieve(TENANT, ADAPTER, ALIAS)
        if alias.version == seen:
            await self.aliases.roll_back(
                TENANT, ADAPTER, ALIAS, expected=seen, key_id=None, reason="worse"
            )

    async def delete(self, model: str) -> None:
        """Delete a model, unless that was done."""
        try:
            await self.models.delete(TENANT, model)
        except NotFound:
            return

    async def collect(self) -> None:
        """Remove what no row speaks of."""
        remover = self.models.remover
        async for _ in Collector(self.database, self.store, remover, clock=lambda: LATER).collect():
            pass

    async def seen(self) -> dict[str, Any]:
        """Tell what every name stands for, how the alias came to that, and what the job says."""
        async with self.database.read() as session:
            history = await AliasRepository(session).history(TENANT, ADAPTER, ALIAS, None, 100)
            job = await session.scalar(select(JobRow))
        assert job is not None
        models = [model.id for model in (await self.models.list(TENANT)).data[1:]]
        names = [*models, ADAPTER, f"{ADAPTER}@{ALIAS}"]
        targets = [await self.models.resolve(TENANT, name) for name in names]
        return {
            "names": {
                n: _whole(self.store, t.revision) for n, t in zip(names, targets, strict=True)
            },
            "history": [(row.version, row.targets) for row in history],
            "job": (job.status == "succeeded", job.fine_tuned_model),
        }

    async def close(self) -> None:
        await self.database.close()

    def _parts(self) -> Parts:
        async def none(_tenant: str, _file: str) -> list[Any]:
            return []

        return Parts(
            owner="runtime",
            lease_seconds=60,
            database=self.database,
            store=self.store,
            base=BASE,
            quantization="none",
            compute_dtype="float32",
            trainers={},
            gate=Gatekeeper(FakeEngine(self.store), Rules(), delays=[]),
            engine=FakeEngine(self.store),
            at_once=1,
            quotas=Quotas(),
            healthy=lambda: True,
            workdirs=self.settings.data_dir,
            examples=none,
        )


Deed = tuple[str, tuple[Any, ...]]
"""A method of Registry, and its arguments."""


def do(settings: Settings, deed: Deed) -> Any:
    """Do one deed in this process."""
    return asyncio.run(_do(settings, deed))


def do_elsewhere(environment: dict[str, str], settings: Settings, deed: Deed) -> None:
    """Do one deed in a process that may die of it; the end is a step as well."""
    os.environ.update(environment)
    do(settings, deed)
    step()


async def _do(settings: Settings, deed: Deed) -> Any:
    registry = Registry(settings)
    try:
        name, arguments = deed
        method: Callable[..., Awaitable[Any]] = getattr(registry, name)
        return await method(*arguments)
    finally:
        await registry.close()


def _whole(store: AdapterStore, ref: RevisionRef | None) -> str:
    """Open what a name stands for, which verifies it."""
    assert ref is not None
    return store.open(ref).ref.digest
