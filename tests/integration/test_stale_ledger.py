"""A worker whose lease another one has by now: whatever it still writes, nothing of it stays."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import inspect

from service.adapters.merges_repository import MergeRepository
from service.base.probes import Probe, Probes
from service.database.models import JobRow, MergeRow
from service.jobs.repository import JobRepository, LeaseLost
from service.runtime import ledger
from service.runtime.backoff import Backoff
from service.runtime.lease import Lease
from service.runtime.ledger import Ledger
from service.runtime.publishing import Publisher
from service.runtime.story import Story
from service.tenants.quotas import Quotas
from service.training.trainer import (
    CheckpointDue,
    EpochDone,
    Started,
    StepDone,
    TrainingOutcome,
)
from tests.builders import a_peft_folder, an_origin
from tests.fakes.words import scores_of
from tests.integration.test_training_jobs import Workshop, shop

__all__ = ["shop"]

Write = Callable[[Ledger, Workshop, JobRow, Path], Awaitable[object]]
STEP = StepDone(1, 8, 1.0, 0.5, 1e-4, 10, 1.0)


def probes(adapter: Path, *, wrong: bool = False) -> Probes:
    """Score as the fake engine does; or otherwise, which the gate rejects."""
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    said = scores_of(weights, [1, 2, 3])
    return Probes([Probe([1, 2, 3], scores_of(b"", [1, 2, 3]), [-9.0, -9.0] if wrong else said)])


def epoch(adapter: Path, *, wrong: bool = False) -> EpochDone:
    return EpochDone(1, 4, adapter, {}, probes(adapter, wrong=wrong))


def outcome(adapter: Path, *, wrong: bool = False) -> TrainingOutcome:
    return TrainingOutcome(adapter, 8, 80, {}, probes(adapter, wrong=wrong))


WRITES: dict[str, Write] = {
    "nothing new": lambda book, _, job, __: book.keep([Started(0, 8, 1, 1, 0, 0)]),
    "a step": lambda book, _, job, __: book.keep([STEP]),
    "a checkpoint": lambda book, _, job, __: book.keep([CheckpointDue(1)]),
    "an epoch": lambda book, _, job, made: book.keep([epoch(made)]),
    "a bad epoch": lambda book, _, job, made: book.keep([epoch(made, wrong=True)]),
    "success": lambda book, _, job, made: book.succeed(outcome(made)),
    "rejection": lambda book, _, job, made: book.succeed(outcome(made, wrong=True)),
    "failure": lambda _, shop, job, __: ledger.fail(shop.database, job, "bad", "bad", None),
    "stop": lambda _, shop, job, __: ledger.put_down(shop.database, job, "shutdown"),
    "fault": lambda _, shop, job, __: ledger.give_up(shop.database, job, Backoff()),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_a_stale_worker_writes_nothing_and_publishes_nothing(
    shop: Workshop, tmp_path: Path, write: Write
) -> None:
    await shop.submit(publish_alias="production")
    stale = await claimed(shop, "training-1")
    async with shop.database.write() as session:
        await JobRepository(session).release_owner("training-1")
    await claimed(shop, "another")
    job, told = await shop.job(), await shop.messages()
    lease = Lease(shop.database, stale, 60, JobRepository)
    book = Ledger(shop.database, stale, lease, Publisher(shop.parts, stale, an_origin()), Story())
    with pytest.raises(LeaseLost):
        await write(book, shop, stale, a_peft_folder(tmp_path / "made"))
    now = await shop.job()
    for column in inspect(JobRow).column_attrs:
        assert getattr(now, column.key) == getattr(job, column.key), column.key
    assert await shop.messages() == told
    assert (await shop.models(), await shop.checkpoints(), await shop.aliases("support")) == (
        [],
        [],
        [],
    )


async def claimed(shop: Workshop, owner: str) -> JobRow:
    async with shop.database.write() as session:
        job = await JobRepository(session).claim(owner, 60, Quotas())
    assert job is not None
    return job


MergeWrite = Callable[[MergeRepository, str, int], Awaitable[object]]
MERGE_WRITES: dict[str, MergeWrite] = {
    "heartbeat": lambda merges, merge, token: merges.heartbeat(merge, token, 60),
    "success": lambda merges, merge, token: merges.succeed(merge, token, {"files": []}),
    "failure": lambda merges, merge, token: merges.fail(merge, token, "bad", "bad"),
    "requeue": lambda merges, merge, token: merges.requeue(merge, token),
    "fault": lambda merges, merge, token: merges.release(merge, token, float),
}


@pytest.mark.parametrize("write", MERGE_WRITES.values(), ids=MERGE_WRITES.keys())
async def test_a_stale_worker_ends_no_merge(shop: Workshop, write: MergeWrite) -> None:
    async with shop.database.write() as session:
        merges = MergeRepository(session)
        await merges.add(a_merge())
        stale = await merges.claim("one", 60)
        await merges.release_owner("one")
        assert stale is not None
        token = stale.lease_token - 1
        held = await merges.claim("two", 60)
        assert held is not None
    with pytest.raises(LeaseLost):
        async with shop.database.write() as session:
            await write(MergeRepository(session), stale.id, token)
    async with shop.database.read() as session:
        merge = await MergeRepository(session).get("acme", stale.id)
    assert (merge.status, merge.lease_owner, merge.result) == ("running", "two", None)


def a_merge() -> MergeRow:
    return MergeRow(
        id="merge-1",
        tenant_id="acme",
        adapter="support",
        digest="a" * 64,
        model="ft:any",
        status="queued",
        spec={},
        created_at=1,
        attempts=0,
        lease_token=0,
    )
