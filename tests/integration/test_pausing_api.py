"""Pause, resume and cancel over HTTP, as OpenAI has them. The runtime's part is on the rows."""

import httpx
import pytest
from openai.types.fine_tuning import FineTuningJob

from service.database import Database
from service.jobs.repository import JobRepository
from service.tenants.quotas import Quotas
from tests.integration.test_jobs_api import JOBS, a_file, claim, create, events


@pytest.fixture
async def job(acme: httpx.AsyncClient, database: Database) -> str:
    await a_file(database, "file-train")
    return str((await create(acme))["id"])


async def ask(client: httpx.AsyncClient, job: str, what: str) -> FineTuningJob:
    answer = await client.post(f"{JOBS}/{job}/{what}")
    assert answer.status_code == 200, answer.text
    return FineTuningJob.model_construct(**answer.json())


async def told(client: httpx.AsyncClient, job: str) -> list[str]:
    found = [event["message"] for event in (await events(client, job))["data"]]
    return found[::-1]


async def test_a_queued_job_pauses_at_once_and_is_claimed_once_it_is_resumed(
    acme: httpx.AsyncClient, database: Database, job: str
) -> None:
    for _ in range(2):
        assert (await ask(acme, job, "pause")).status == "paused"
    async with database.write() as session:
        assert await JobRepository(session).claim("runtime", 15, Quotas()) is None
    for _ in range(2):
        assert (await ask(acme, job, "resume")).status == "queued"
    assert (await claim(database)).id == job
    assert (await told(acme, job))[1:] == [
        "The job was paused",
        "The job was resumed, and is queued again",
        "Fine-tuning job started",
    ]


async def test_a_running_job_is_asked_to_pause_and_says_so_once(
    acme: httpx.AsyncClient, database: Database, job: str
) -> None:
    held = await claim(database)
    for _ in range(2):
        assert (await ask(acme, job, "pause")).status == "running"
    async with database.write() as session:
        jobs = JobRepository(session)
        assert await jobs.heartbeat(job, held.lease_token, 15), "the runtime is told"
        assert await jobs.put_down(job, held.lease_token, "shutdown") == "paused"
    assert (await acme.get(f"{JOBS}/{job}")).json()["status"] == "paused"
    assert (await told(acme, job))[-2:] == [
        "A pause was requested; training stops at its next step",
        "The job was paused",
    ]


async def test_resuming_calls_a_pause_off_that_has_not_happened(
    acme: httpx.AsyncClient, database: Database, job: str
) -> None:
    held = await claim(database)
    await ask(acme, job, "pause")
    assert (await ask(acme, job, "resume")).status == "running"
    async with database.write() as session:
        assert not await JobRepository(session).heartbeat(job, held.lease_token, 15)
    assert (await told(acme, job))[-1] == "The pause was called off"


async def test_a_paused_job_is_cancelled_at_once(acme: httpx.AsyncClient, job: str) -> None:
    await ask(acme, job, "pause")
    assert (await ask(acme, job, "cancel")).status == "cancelled"


@pytest.mark.parametrize("what", ["pause", "resume"])
async def test_what_has_ended_or_is_being_cancelled_neither_pauses_nor_resumes(
    acme: httpx.AsyncClient, database: Database, job: str, what: str
) -> None:
    held = await claim(database)
    await ask(acme, job, "cancel")
    refused = [await acme.post(f"{JOBS}/{job}/{what}")]
    async with database.write() as session:
        await JobRepository(session).put_down(job, held.lease_token, "shutdown")
    refused.append(await acme.post(f"{JOBS}/{job}/{what}"))
    assert [answer.status_code for answer in refused] == [409, 409]
    assert [answer.json()["error"]["code"] for answer in refused] == [
        "job_is_being_cancelled",
        "job_has_ended",
    ]
    assert {answer.headers["x-should-retry"] for answer in refused} == {"false"}


async def test_priorities_are_bounded_and_shown(acme: httpx.AsyncClient, job: str) -> None:
    assert (await acme.get(f"{JOBS}/{job}")).json()["priority"] == 0
    assert (await create(acme, priority=-100))["priority"] == -100
    body = {"model": "lorehouse-tiny", "training_file": "file-train", "priority": 101}
    answer = await acme.post(JOBS, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "priority")
