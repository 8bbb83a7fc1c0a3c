"""The outbox and its couriers, with real receivers: told at least once, and nobody held up."""

import asyncio
import multiprocessing
import time
from collections.abc import Sequence

import pytest
from openai import OpenAI
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from service.database import Database
from service.database.models import DeliveryRow, JobRow, TenantRow, WebhookRow
from service.jobs.leases import MAX_ATTEMPTS
from service.jobs.repository import JobRepository, LeaseLost
from service.tenants.quotas import Quotas
from service.webhooks.courier import EACH, HOLD_SECONDS, KEPT_SECONDS, Courier
from service.webhooks.events import EVENT_TYPES
from service.webhooks.outbox import Outbox
from service.webhooks.schedule import DAY, DELAYS
from service.webhooks.sender import Sender
from service.webhooks.signing import secret_of
from tests.fakes.receiver import OK, Received, answering, receiving

SECRET = "the-servers"
FAILED = "fine_tuning.job.failed"
LATER = 1.2
"""Beyond every delay's spread."""


class PostOffice:
    """Tenants, webhooks and couriers on one database, with time that passes when told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.time = time.time()

    def courier(self) -> Courier:
        return Courier(
            self.database, Sender(private=True), SECRET, CollectorRegistry(), lambda: self.time
        )

    async def webhook(
        self, url: str, tenant: str = "acme", events: Sequence[str] = EVENT_TYPES
    ) -> str:
        async with self.database.write() as session:
            if await session.get(TenantRow, tenant) is None:
                session.add(TenantRow(id=tenant, created_at=1))
                await session.flush()
            row = WebhookRow(
                id=f"wh_{tenant}_{abs(hash(url))}",
                tenant_id=tenant,
                url=url,
                events=[*events],
                secret_version=1,
                created_at=1,
            )
            session.add(row)
        return row.id

    async def tell(self, subject: str, tenant: str = "acme") -> None:
        async with self.database.write() as session:
            await Outbox(session).put(tenant, FAILED, subject, int(self.time))

    async def job(self, job_id: str, *, runs: bool = False, **fields: object) -> JobRow:
        row = JobRow(
            id=job_id,
            tenant_id="acme",
            model="base",
            adapter="a",
            training_file="file-1",
            seed=1,
            method={},
            spec={},
            created_at=1,
            **{"status": "queued", "attempts": 0, "lease_token": 0, "cancel_requested": False}
            | fields,
        )
        async with self.database.write() as session:
            await JobRepository(session).add(row)
            held = await JobRepository(session).claim("one", 15, Quotas()) if runs else None
        return held or row

    async def deliveries(self) -> Sequence[DeliveryRow]:
        async with self.database.read() as session:
            return (await session.scalars(select(DeliveryRow).order_by(DeliveryRow.seq))).all()

    async def only(self) -> DeliveryRow:
        [row] = await self.deliveries()
        return row

    async def round(self, courier: Courier) -> None:
        await courier.go_round()
        await courier.finish(20)


@pytest.fixture
def office(database: Database) -> PostOffice:
    return PostOffice(database)


async def test_every_ending_is_told_once_to_each_that_wants_to_know(office: PostOffice) -> None:
    for name, events in (("all", EVENT_TYPES), ("bad", [FAILED])):
        await office.webhook(f"http://{name}.example/", events=events)
    for status in ("succeeded", "failed", "cancelled"):
        held = await office.job(f"ftjob-{status}", runs=True)
        code = "broken" if status == "failed" else None
        async with office.database.write() as session:
            jobs = JobRepository(session)
            await jobs.finish(held.id, held.lease_token, status, error_code=code)
    await office.job("ftjob-crashed", status="running", attempts=MAX_ATTEMPTS)
    await office.job("ftjob-unwanted", cancel_requested=True)
    async with office.database.write() as session:
        assert await JobRepository(session).claim("one", 15, Quotas()) is None
    told = [
        (row.type.split(".")[-1], row.payload["data"]["id"]) for row in await office.deliveries()
    ]
    assert sorted(told) == [
        ("cancelled", "ftjob-cancelled"),
        ("cancelled", "ftjob-unwanted"),
        *[("failed", "ftjob-crashed")] * 2,
        *[("failed", "ftjob-failed")] * 2,
        ("succeeded", "ftjob-succeeded"),
    ]
    # One event, whoever is told of it.
    assert len({row.event_id for row in await office.deliveries()}) == 5


async def test_an_ending_that_is_not_committed_is_not_told(office: PostOffice) -> None:
    await office.webhook("http://one.example/")
    held = await office.job("ftjob-1", runs=True)

    async def end_twice() -> None:
        async with office.database.write() as session:
            for _ in range(2):
                await JobRepository(session).finish(held.id, held.lease_token, "succeeded")

    with pytest.raises(LeaseLost):
        await end_twice()
    assert await office.deliveries() == []


async def test_what_failed_is_sent_again_later_as_the_same_event(office: PostOffice) -> None:
    async with receiving(answering(500)) as receiver:
        await office.webhook(receiver.url)
        await office.tell("ftjob-1")
        courier = office.courier()
        await office.round(courier)
        row = await office.only()
        assert (row.status, row.attempts, row.last_status) == ("pending", 1, 500)
        assert row.last_error == "The answer was 500"
        await office.round(courier)
        assert len(receiver.received) == 1
        office.time += DELAYS[0] * LATER
        receiver.answer = answering(202)
        await office.round(courier)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    row = await office.only()
    assert (row.status, row.attempts, row.last_status, row.last_error) == (
        "delivered",
        2,
        202,
        None,
    )
    assert row.delivered_at == int(office.time)


async def test_after_a_day_it_is_given_up(office: PostOffice) -> None:
    async with receiving(answering(503)) as receiver:
        await office.webhook(receiver.url)
        await office.tell("ftjob-1")
        courier, began = office.courier(), office.time
        while (again := (await office.only()).next_attempt_at) is not None:
            office.time = again
            await office.round(courier)
    row = await office.only()
    assert (row.status, row.attempts) == ("failed", len(DELAYS) + 1)
    assert 0.8 * DAY < office.time - began <= DAY


@pytest.mark.parametrize(
    ("status", "lines", "outcome", "why"),
    [
        (410, [], "failed", "The answer was 410"),
        (
            302,
            ["location: http://127.0.0.1:1/"],
            "pending",
            "The answer was 302: redirects are not followed",
        ),
    ],
)
async def test_some_answers_have_their_own_meaning(
    office: PostOffice, status: int, lines: list[str], outcome: str, why: str
) -> None:
    async with receiving(answering(status, *lines)) as receiver:
        await office.webhook(receiver.url)
        await office.tell("ftjob-1")
        await office.round(office.courier())
    row = await office.only()
    assert (row.status, row.last_status, row.last_error) == (outcome, status, why)


async def test_a_slow_receiver_has_few_places_and_holds_up_nobody(office: PostOffice) -> None:
    answered = asyncio.Event()

    async def slow(_: Received) -> bytes:
        await answered.wait()
        return OK

    async with receiving(slow) as slow_one, receiving() as quick, receiving() as other:
        await office.webhook(slow_one.url)
        await office.webhook(quick.url)
        await office.webhook(other.url, "globex")
        for number in range(EACH * 3):
            await office.tell(f"ftjob-{number}")
        await office.tell("ftjob-other", "globex")
        running = asyncio.create_task(office.courier().run())
        await quick.count(EACH * 3)
        await other.count(1)
        assert len(await slow_one.count(EACH)) == EACH
        answered.set()
        await slow_one.count(EACH * 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {row.status for row in await office.deliveries()} == {"delivered"}


async def test_two_couriers_share_one_outbox(office: PostOffice) -> None:
    async with receiving() as receiver:
        await office.webhook(receiver.url)
        for number in range(30):
            await office.tell(f"ftjob-{number}")
        couriers = [office.courier(), office.courier()]
        while any(row.status == "pending" for row in await office.deliveries()):
            await asyncio.gather(*map(office.round, couriers))
    events = [got.headers["webhook-id"] for got in receiver.received]
    assert len(events) == len(set(events)) == 30


def carry(url: str) -> None:
    """Be a process that sends."""
    database = Database(url)
    sender = Sender(private=True)
    asyncio.run(Courier(database, sender, SECRET, CollectorRegistry()).run())


async def test_kill_9_while_sending_means_again_with_the_same_id(office: PostOffice) -> None:
    over = asyncio.Event()

    async def never(_: Received) -> bytes:
        await over.wait()
        return b""

    async with receiving(never) as receiver:
        await office.webhook(receiver.url)
        await office.tell("ftjob-1")
        url = office.database.engine.url.render_as_string(hide_password=False)
        process = multiprocessing.get_context("spawn").Process(target=carry, args=(url,))
        process.start()
        try:
            await receiver.count(1)
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
            over.set()
        receiver.answer = answering(200)
        courier = office.courier()
        office.time = time.time()
        await office.round(courier)
        assert len(receiver.received) == 1, "whoever was killed holds it for a while"
        office.time += HOLD_SECONDS
        await office.round(courier)
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    row = await office.only()
    assert (row.status, row.attempts) == ("delivered", 2)


async def test_while_secrets_overlap_receivers_with_either_believe_it(office: PostOffice) -> None:
    async with receiving() as receiver:
        webhook_id = await office.webhook(receiver.url)
        async with office.database.write() as session:
            webhook = (await session.scalars(select(WebhookRow))).one()
            webhook.secret_version, webhook.previous_until = 2, int(office.time) + 60
        await office.tell("ftjob-1")
        await office.round(office.courier())
    [got] = receiver.received
    for version in (1, 2):
        client = OpenAI(api_key="x", webhook_secret=secret_of(SECRET, webhook_id, version))
        assert client.webhooks.unwrap(got.body, got.headers).type == FAILED


async def test_what_was_sent_after_another_took_it_is_not_written(
    office: PostOffice,
) -> None:
    async def meanwhile(_: Received) -> bytes:
        async with office.database.write() as session:
            row = (await session.scalars(select(DeliveryRow))).one()
            row.next_attempt_at = office.time + 7
        return OK

    async with receiving(meanwhile) as receiver:
        await office.webhook(receiver.url)
        await office.tell("ftjob-1")
        await office.round(office.courier())
    row = await office.only()
    assert (row.status, row.next_attempt_at) == ("pending", office.time + 7)


async def test_old_deliveries_go_unless_they_are_still_to_be_sent(office: PostOffice) -> None:
    async with receiving() as receiver, receiving(answering(500)) as broken:
        await office.webhook(receiver.url)
        await office.webhook(broken.url, "globex")
        await office.tell("ftjob-1")
        await office.tell("ftjob-2", "globex")
        await office.round(office.courier())
        assert len(await office.deliveries()) == 2
        office.time += KEPT_SECONDS + 2
        await office.round(office.courier())
    assert [row.tenant_id for row in await office.deliveries()] == ["globex"]
