"""Runtimes claim jobs: one holder at a time, tenants in turn, nothing lost, nothing twice."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.database import Database
from service.database.models import JobCheckpointRow, JobRow, TenantRow
from service.errors import NotFound
from service.jobs.leases import FULL_SECONDS, MAX_ATTEMPTS
from service.jobs.lifecycle import Action
from service.jobs.repository import JobRepository, LeaseLost
from service.runtime.backoff import Backoff
from service.settings import Settings
from service.tenants.quotas import Quotas
from service.tenants.usage_repository import UsageRepository

LEASE = 15.0


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


class Office:
    """The rows, as a runtime reaches them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()

    @asynccontextmanager
    async def jobs(self) -> AsyncIterator[JobRepository]:
        async with self.database.write() as session:
            yield JobRepository(session, self.clock)

    async def submit(self, *jobs: tuple[str, str]) -> None:
        async with self.jobs() as repository:
            for tenant, job_id in jobs:
                await repository.add(_row(tenant, job_id))

    async def claim(self, owner: str = "one") -> JobRow | None:
        async with self.jobs() as repository:
            return await repository.claim(owner, LEASE, Quotas(clock=self.clock))

    async def held(self, owner: str = "one") -> JobRow:
        job = await self.claim(owner)
        assert job is not None
        return job

    async def read(self, tenant: str, job_id: str) -> JobRow:
        async with self.database.read() as session:
            return await JobRepository(session).get(tenant, job_id)

    async def accounted(self, tenant: str) -> int:
        async with self.database.read() as session:
            return await UsageRepository(session).spent(tenant, "trained", 0)

    async def messages(self, tenant: str, job_id: str) -> list[str]:
        async with self.database.read() as session:
            events, _ = await JobRepository(session).news(tenant, job_id, 0, 100)
            return [event.message for event in events]


def _row(tenant: str, job_id: str, **fields: Any) -> JobRow:
    return JobRow(
        id=job_id,
        tenant_id=tenant,
        status="queued",
        model="tiny",
        adapter=job_id,
        training_file="file-1",
        seed=0,
        method={},
        spec={},
        created_at=1,
        **fields,
    )


@pytest.fixture
async def office(database: Database) -> Office:
    async with database.write() as session:
        session.add_all([TenantRow(id="acme", created_at=1), TenantRow(id="globex", created_at=1)])
    return Office(database)


async def test_nothing_queued_is_nothing_claimed(office: Office) -> None:
    assert await office.claim() is None


async def test_a_tenant_has_no_more_running_than_it_may(office: Office) -> None:
    await office.submit(("acme", "a1"), ("acme", "a2"), ("acme", "a3"), ("globex", "b1"))
    async with office.database.write() as session:
        acme = await session.get(TenantRow, "acme")
        assert acme is not None
        acme.limits = {"running_jobs": 1}
    assert [(await office.held()).id for _ in range(2)] == ["a1", "b1"]
    assert await office.claim() is None
    async with office.jobs() as jobs:
        await jobs.finish("a1", (await office.read("acme", "a1")).lease_token, "cancelled")
    office.clock.time += FULL_SECONDS
    assert (await office.held()).id == "a2"
    # Its runtime dies: what was begun is taken up again, and counts once.
    office.clock.time += LEASE + 1
    assert (await office.held("two")).id in {"a2", "b1"}


async def test_claiming_leases_the_job_and_says_so(office: Office) -> None:
    await office.submit(("acme", "a1"))
    job = await office.held()
    assert (job.status, job.lease_owner, job.lease_token, job.attempts) == ("running", "one", 1, 1)
    assert job.lease_expires_at == office.clock.time + LEASE
    assert job.started_at == int(office.clock.time)
    assert await office.messages("acme", "a1") == ["Fine-tuning job started"]
    assert await office.claim("two") is None


async def test_many_claimers_never_get_the_same_job(office: Office, settings: Settings) -> None:
    wanted = [(tenant, f"{tenant}-{i}") for i in range(10) for tenant in ("acme", "globex")]
    await office.submit(*wanted)
    others = [Database(settings.sqlalchemy_url) for _ in range(4)]

    async def drain(database: Database, owner: str) -> list[str]:
        found = []
        while True:
            async with database.write() as session:
                job = await JobRepository(session).claim(owner, LEASE, Quotas())
            if job is None:
                return found
            found.append(job.id)

    claimed = await asyncio.gather(*(drain(each, str(i)) for i, each in enumerate(others)))
    for each in others:
        await each.close()
    assert sorted(itertools.chain(*claimed)) == sorted(job_id for _, job_id in wanted)


async def test_tenants_take_turns(office: Office) -> None:
    await office.submit(("acme", "a1"), ("acme", "a2"), ("acme", "a3"), ("globex", "g1"))
    order = []
    for _ in range(4):
        job = await office.held()
        order.append(job.id)
        async with office.jobs() as jobs:
            await jobs.finish(job.id, job.lease_token, "succeeded", fine_tuned_model="m")
        office.clock.time += 10
    assert order == ["a1", "g1", "a2", "a3"]


async def test_who_has_fewer_jobs_running_comes_first(office: Office) -> None:
    await office.submit(("acme", "a1"), ("acme", "a2"), ("globex", "g1"), ("globex", "g2"))
    assert [(await office.held(owner)).id for owner in "wxyz"] == ["a1", "g1", "a2", "g2"]


async def test_a_silent_runtimes_job_goes_to_another_and_comes_first(office: Office) -> None:
    await office.submit(("acme", "a1"), ("globex", "g1"))
    first = await office.held("one")
    office.clock.time += LEASE + 1
    second = await office.held("two")
    assert (second.id, second.lease_token) == (first.id, first.lease_token + 1)
    assert (await office.messages("acme", "a1"))[-1] == "Resumed after an interruption"


async def test_heartbeats_keep_the_job(office: Office) -> None:
    await office.submit(("acme", "a1"))
    job = await office.held()
    for _ in range(3):
        office.clock.time += LEASE - 1
        async with office.jobs() as jobs:
            assert await jobs.heartbeat(job.id, job.lease_token, LEASE) is False
    assert await office.claim("two") is None


async def tell(jobs: JobRepository, job: str, token: int) -> None:
    jobs.tell(await jobs.held(job, token), "hello")


Write = Callable[[JobRepository, str, int], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "heartbeat": lambda jobs, job, token: jobs.heartbeat(job, token, LEASE),
    "event": tell,
    "checkpoint": lambda jobs, job, token: jobs.record_checkpoint(
        job, token, step_number=1, model_name="m", metrics={}
    ),
    "progress": lambda jobs, job, token: jobs.progress(
        job, token, trained_tokens=1, estimated_finish=None
    ),
    "finish": lambda jobs, job, token: jobs.finish(job, token, "succeeded", fine_tuned_model="m"),
    "kept": lambda jobs, job, token: jobs.kept(job, token, 1),
    "put down": lambda jobs, job, token: jobs.put_down(job, token, "shutdown"),
    "release": lambda jobs, job, token: jobs.release(job, token, float),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_a_write_under_an_older_lease_is_refused(office: Office, write: Write) -> None:
    await office.submit(("acme", "a1"))
    stale = await office.held("one")
    office.clock.time += LEASE + 1
    await office.held("two")
    with pytest.raises(LeaseLost):
        async with office.jobs() as jobs:
            await write(jobs, stale.id, stale.lease_token)
    assert (await office.read("acme", "a1")).lease_owner == "two"


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_a_write_after_the_end_is_refused(office: Office, write: Write) -> None:
    await office.submit(("acme", "a1"))
    job = await office.held()
    async with office.jobs() as jobs:
        await jobs.finish(job.id, job.lease_token, "cancelled")
    with pytest.raises(LeaseLost):
        async with office.jobs() as jobs:
            await write(jobs, job.id, job.lease_token)
    assert (await office.read("acme", "a1")).status == "cancelled"


async def test_a_dead_owners_jobs_are_claimable_at_once_and_its_ghost_is_refused(
    office: Office,
) -> None:
    await office.submit(("acme", "a1"), ("globex", "g1"))
    dead = await office.held("one")
    alive = await office.held("two")
    async with office.jobs() as jobs:
        assert await jobs.release_owner("one") == 1
    with pytest.raises(LeaseLost):
        async with office.jobs() as jobs:
            await jobs.finish(dead.id, dead.lease_token, "succeeded", fine_tuned_model="m")
    assert (await office.held("three")).id == dead.id
    async with office.jobs() as jobs:
        await jobs.heartbeat(alive.id, alive.lease_token, LEASE)


async def test_crashes_without_progress_fail_the_job(office: Office) -> None:
    await office.submit(("acme", "a1"), ("globex", "g1"))
    for _ in range(MAX_ATTEMPTS):
        assert (await office.held("one")).id == "a1"
        async with office.jobs() as jobs:
            await jobs.release_owner("one")
    assert (await office.held("one")).id == "g1"
    job = await office.read("acme", "a1")
    assert (job.status, job.error_code) == ("failed", "runtime_crashed")
    assert job.finished_at is not None
    assert f"{MAX_ATTEMPTS} times" in (await office.messages("acme", "a1"))[-1]


async def test_a_farther_checkpoint_forgives_crashes(office: Office) -> None:
    await office.submit(("acme", "a1"))
    for attempt in range(3 * MAX_ATTEMPTS):
        job = await office.held("one")
        async with office.jobs() as jobs:
            await jobs.kept(job.id, job.lease_token, (attempt + 1) * 100)
            await jobs.release_owner("one")
    assert (await office.read("acme", "a1")).status == "running"


@pytest.mark.parametrize("farther", [0, 1], ids=["the same steps", "some steps more"])
async def test_steps_and_checkpoints_that_were_there_before_are_no_progress(
    office: Office, farther: int
) -> None:
    await office.submit(("acme", "a1"))
    claims = 0
    while (job := await office.claim("one")) is not None:
        claims += 1
        async with office.jobs() as jobs:
            held, tokens = (job.id, job.lease_token), 100 + claims * farther
            await jobs.progress(*held, trained_tokens=tokens, estimated_finish=None)
            await jobs.kept(*held, 100)
            await jobs.release_owner("one")
    # The first checkpoint was one.
    assert claims == MAX_ATTEMPTS + 1
    assert (await office.read("acme", "a1")).error_code == "runtime_crashed"


async def test_every_trained_token_is_accounted_once_and_committed_with_its_checkpoint(
    office: Office,
) -> None:
    await office.submit(("acme", "a1"), ("globex", "g1"))
    # A kill after 300, and again after 250 of the steps that were made a second time.
    for reached in ([100, 300], [200, 250], [300, 400]):
        job = await office.held("one")
        for tokens in reached:
            async with office.jobs() as jobs:
                await jobs.progress(
                    job.id, job.lease_token, trained_tokens=tokens, estimated_finish=None
                )
                await jobs.kept(job.id, job.lease_token, tokens)
            told = (await office.read("acme", "a1")).trained_tokens
            assert await office.accounted("acme") == told
        if reached[-1] < 400:
            async with office.jobs() as jobs:
                await jobs.release_owner("one")
    async with office.jobs() as jobs:
        await jobs.finish(
            job.id, job.lease_token, "succeeded", fine_tuned_model="m", trained_tokens=450
        )
    assert (await office.read("acme", "a1")).trained_tokens == 450
    assert await office.accounted("acme") == 450
    assert await office.accounted("globex") == 0


async def test_after_a_fault_a_job_rests_the_longer_the_more_there_were(office: Office) -> None:
    await office.submit(("acme", "a1"))
    for rest in (2.0, 4.0, 8.0):
        job = await office.held()
        async with office.jobs() as jobs:
            await jobs.release(job.id, job.lease_token, Backoff(first=2.0, longest=60.0).after)
        office.clock.time += rest - 0.1
        assert await office.claim() is None
        office.clock.time += 0.2
    assert (await office.held()).not_before is None


async def test_a_job_that_rests_keeps_nobody_waiting(office: Office) -> None:
    await office.submit(("acme", "a1"), ("globex", "g1"))
    job = await office.held()
    async with office.jobs() as jobs:
        await jobs.release(job.id, job.lease_token, lambda _: 9.0)
    assert (await office.held()).id == "g1"


async def test_higher_priorities_are_begun_first_within_their_tenant_only(office: Office) -> None:
    for job_id, priority in (("a1", 0), ("a2", 7), ("a3", -3), ("a4", 7)):
        async with office.jobs() as jobs:
            await jobs.add(_row("acme", job_id, priority=priority))
    await office.submit(("globex", "g1"))
    order = [(await office.held(str(n))).id for n in range(5)]
    assert order == ["a2", "g1", "a4", "a1", "a3"]


async def test_a_tenant_of_more_weight_runs_more_jobs(office: Office) -> None:
    async with office.database.write() as session:
        globex = await session.get_one(TenantRow, "globex")
        globex.weight = 3.0
    await office.submit(*(("acme", f"a{n}") for n in range(9)))
    await office.submit(*(("globex", f"g{n}") for n in range(9)))
    claimed = [(await office.held(str(n))).tenant_id for n in range(8)]
    assert claimed.count("globex") == 6


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("places", [1, 3])
async def test_fifty_queued_jobs_delay_anothers_first_by_no_more_than_one_turn(
    office: Office, places: int, weight: float
) -> None:
    async with office.database.write() as session:
        (await session.get_one(TenantRow, "acme")).weight = weight
    await office.submit(*(("acme", f"a{n}") for n in range(50)))
    running = [await office.held(str(n)) for n in range(places)]
    for arrival in range(3):
        newcomer = f"g{arrival}"
        await office.submit(("globex", newcomer))
        office.clock.time += 1
        ended = running.pop(0)
        async with office.jobs() as jobs:
            await jobs.finish(
                ended.id, ended.lease_token, "failed", error_code="any", error_message="any"
            )
        begun = await office.held("next")
        assert begun.id == newcomer
        async with office.jobs() as jobs:
            await jobs.finish(
                begun.id, begun.lease_token, "failed", error_code="any", error_message="any"
            )
        office.clock.time += 1
        running.append(await office.held("again"))
        assert running[-1].tenant_id == "acme"


async def test_the_job_that_makes_room_is_the_least_of_who_holds_the_most(office: Office) -> None:
    async with office.jobs() as jobs:
        for job_id, priority in (("a1", 0), ("a2", 5), ("a3", 0)):
            await jobs.add(_row("acme", job_id, priority=priority))
    for owner in ("one", "two", "two"):
        await office.held(owner)

    async def makes_room(owner: str, patience: float = 2.0) -> str | None:
        async with office.jobs() as jobs:
            return await jobs.to_give_way(owner, patience)

    assert await makes_room("two") is None, "nobody waits"
    await office.submit(("globex", "g1"))
    assert [await makes_room(owner) for owner in ("one", "two")] == [None, "a3"]
    assert await makes_room("two", 1e9) is None, "it may be claimed at any moment"
    taken = await office.read("acme", "a3")
    async with office.jobs() as jobs:
        assert await jobs.put_down("a3", taken.lease_token, "made room") == "queued"
    assert (await office.held("two")).id == "g1"
    assert await makes_room("two") is None, "a1 and a2 against g1"


async def test_an_orderly_shutdown_gives_the_job_back_and_counts_as_no_crash(
    office: Office,
) -> None:
    await office.submit(("acme", "a1"))
    for _ in range(2 * MAX_ATTEMPTS):
        job = await office.held()
        async with office.jobs() as jobs:
            assert await jobs.put_down(job.id, job.lease_token, "shutdown") == "queued"
        assert (await office.read("acme", "a1")).status == "queued"
    assert (await office.held()).attempts == 1


async def test_a_cancelled_job_whose_runtime_died_is_ended_and_not_resumed(office: Office) -> None:
    await office.submit(("acme", "a1"))
    await office.held("one")
    async with office.jobs() as jobs:
        (await jobs.get("acme", "a1", lock=True)).cancel_requested = True
        await jobs.release_owner("one")
    assert await office.claim("two") is None
    assert (await office.read("acme", "a1")).status == "cancelled"


async def test_a_job_that_was_to_pause_when_its_runtime_died_is_paused_and_not_resumed(
    office: Office,
) -> None:
    await office.submit(("acme", "a1"))
    await office.held("one")
    async with office.jobs() as jobs:
        await jobs.ask(await jobs.get("acme", "a1", lock=True), Action.PAUSE)
        await jobs.release_owner("one")
    assert await office.claim("two") is None
    job = await office.read("acme", "a1")
    assert (job.status, job.pause_requested, job.lease_owner) == ("paused", False, None)
    assert (await office.messages("acme", "a1"))[-1] == "The job was paused"


async def test_a_checkpoint_made_again_after_a_resume_is_kept_once(office: Office) -> None:
    await office.submit(("acme", "a1"))
    job = await office.held()
    for name in ("first", "second"):
        async with office.jobs() as jobs:
            await jobs.record_checkpoint(
                job.id, job.lease_token, step_number=5, model_name=name, metrics={"train_loss": 1.0}
            )
    async with office.database.read() as session:
        kept = await JobRepository(session).checkpoints("acme", "a1", None, 10)
    assert [row.model_name for row in kept] == ["first"]
    assert isinstance(kept[0], JobCheckpointRow)


async def test_another_tenants_job_is_not_found(office: Office) -> None:
    await office.submit(("acme", "a1"))
    with pytest.raises(NotFound):
        await office.read("globex", "a1")
