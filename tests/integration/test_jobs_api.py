"""`/v1/fine_tuning/jobs` as OpenAI's clients use it. The runtime's part is played on the rows."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from service.database import Database
from service.database.models import FileRow, JobRow
from service.errors import NotFound
from service.jobs.repository import JobRepository
from service.tenants.quotas import Quotas
from service.training.spec import TrainingSpec
from tests.conftest import running

JOBS = "/v1/fine_tuning/jobs"
BASE = "lorehouse-tiny"


async def a_file(database: Database, file_id: str, tenant: str = "acme", **fields: Any) -> str:
    """Keep the row of a parsed training file."""
    row = {
        "purpose": "fine-tune",
        "rows": 400,
        "longest_example": 30,
        "row_format": "messages",
    } | fields
    async with database.write() as session:
        session.add(
            FileRow(
                id=file_id,
                tenant_id=tenant,
                filename="rows.jsonl",
                bytes=1,
                sha256="0" * 64,
                created_at=1,
                tokens=100,
                **row,
            )
        )
    return file_id


@pytest.fixture
async def training_file(acme: httpx.AsyncClient, database: Database) -> str:
    return await a_file(database, "file-train")


async def create(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {"model": BASE, "training_file": "file-train"} | fields
    answer = await client.post(JOBS, json=body)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def refused(client: httpx.AsyncClient, status: int, **fields: Any) -> dict[str, Any]:
    body = {"model": BASE, "training_file": "file-train"} | fields
    answer = await client.post(JOBS, json=body)
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


async def claim(database: Database) -> JobRow:
    async with database.write() as session:
        job = await JobRepository(session).claim("runtime", 15, Quotas())
    assert job is not None
    return job


async def events(client: httpx.AsyncClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"{JOBS}/{job_id}/events", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_a_created_job_is_openais_job_and_ours(
    acme: httpx.AsyncClient, training_file: str
) -> None:
    job = await create(acme, suffix="support", seed=7, metadata={"team": "a"})
    FineTuningJob.model_validate(job, strict=True)
    assert job["object"] == "fine_tuning.job"
    assert job["id"].startswith("ftjob-")
    assert (job["status"], job["organization_id"], job["adapter"]) == ("queued", "acme", "support")
    assert (job["fine_tuned_model"], job["trained_tokens"], job["error"]) == (None, None, None)
    assert (job["seed"], job["result_files"], job["metadata"]) == (7, [], {"team": "a"})
    assert job["hyperparameters"] == job["method"]["supervised"]["hyperparameters"]
    assert job["method"]["supervised"]["lora"]["rank"] == 16
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job


async def test_the_runtime_finds_the_spec_as_it_was_resolved(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    lora = {"rank": 4, "target_modules": ["q_proj"]}
    await create(acme, seed=7, method={"type": "supervised", "supervised": {"lora": lora}})
    spec = msgspec.convert((await claim(database)).spec, TrainingSpec)
    assert (spec.seed, spec.lora.rank, spec.lora.target_modules) == (7, 4, ("q_proj",))


async def test_without_a_suffix_the_adapter_is_named_after_the_job(
    acme: httpx.AsyncClient, training_file: str
) -> None:
    job = await create(acme)
    assert job["suffix"] is None
    assert job["id"] == f"ftjob-{job['adapter']}"
    assert 0 <= job["seed"] < 2**31


async def test_few_examples_and_long_ones_are_warned_about(
    acme: httpx.AsyncClient, database: Database
) -> None:
    await a_file(database, "file-small", rows=50, longest_example=5000)
    job = await create(acme, training_file="file-small")
    assert job["hyperparameters"]["n_epochs"] == 8
    told = (await events(acme, job["id"]))["data"]
    assert [event["level"] for event in told] == ["warn", "warn", "info"]
    assert "50 examples" in told[1]["message"]
    assert "5000 tokens" in told[0]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        (
            {"method": {"type": "supervised", "supervised": {"lora": {"rank": 0}}}},
            "method.supervised.lora.rank",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"lora": {"rank": 10_000}}}},
            "method.supervised.lora.rank",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"lora": {"target_modules": ["x"]}}}},
            "method.supervised.lora.target_modules",
        ),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"lora": {"target_modules": ["lm_head"]}},
                }
            },
            "method.supervised.lora.target_modules",
        ),
        *[
            (
                {"method": {"type": kind, kind: {"lora": {name: value}}}},
                f"method.{kind}.lora.{name}",
            )
            for kind in ("supervised", "dpo")
            for name, value in {
                "use_dora": True,
                "bias": "all",
                "modules_to_save": ["lm_head"],
                "rank_pattern": {"q_proj": 4},
            }.items()
        ],
        ({"method": {"type": "dpo"}}, "training_file"),
        ({"method": {"type": "sft"}}, "method.type"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"suffix": "My Suffix_1"}, "suffix"),
        (
            {"method": {"type": "supervised", "supervised": {"early_stopping": True}}},
            "method.supervised.early_stopping",
        ),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"early_stopping": {"patience": 2}, "validation_split": 0},
                }
            },
            "method.supervised.early_stopping",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"base_adapter": BASE}}},
            "method.supervised.base_adapter",
        ),
        ({"n_epochs": 3}, "n_epochs"),
    ],
)
async def test_what_cannot_be_honoured_is_400_by_name(
    acme: httpx.AsyncClient, training_file: str, fields: dict[str, Any], param: str
) -> None:
    error = await refused(acme, 400, **fields)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert (await acme.get(JOBS)).json()["data"] == []


@pytest.mark.parametrize("content", [b"{not json", b"[]", b"", b"\xff\xfe"])
async def test_a_body_that_is_no_object_is_400(acme: httpx.AsyncClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await acme.post(JOBS, content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_model_is_404(acme: httpx.AsyncClient, training_file: str) -> None:
    error = await refused(acme, 404, model="gpt-4o-mini")
    assert (error["code"], error["param"]) == ("model_not_found", "model")


async def test_a_file_of_another_tenant_is_as_unknown_as_none(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    foreign = await refused(globex, 404)
    nothing = await refused(globex, 404, training_file="file-none")
    assert foreign["param"] == nothing["param"] == "training_file"
    assert foreign["message"].replace("file-train", "file-none") == nothing["message"]
    await a_file(database, "file-globex", tenant="globex")
    validation = await refused(acme, 404, validation_file="file-globex")
    assert validation["param"] == "validation_file"


@pytest.mark.parametrize("fields", [{"purpose": "batch"}, {"rows": 0}, {"rows": None}])
async def test_a_file_that_is_not_for_training_is_400(
    acme: httpx.AsyncClient, database: Database, fields: dict[str, Any]
) -> None:
    await a_file(database, "file-other", **fields)
    assert (await refused(acme, 400, training_file="file-other"))["param"] == "training_file"


async def test_jobs_are_listed_newest_first_page_by_page(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, training_file: str
) -> None:
    made = [(await create(acme))["id"] for _ in range(3)]
    first = (await acme.get(JOBS, params={"limit": 2})).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (made[:0:-1], True)
    rest = (await acme.get(JOBS, params={"limit": 2, "after": made[1]})).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (made[:1], False)
    assert (await globex.get(JOBS)).json() == {"object": "list", "data": [], "has_more": False}


async def test_jobs_are_found_by_metadata(acme: httpx.AsyncClient, training_file: str) -> None:
    odd = "a\"]'%"
    await create(acme, metadata={"team": "a", odd: "x"})
    wanted = await create(acme, metadata={"team": "b", odd: "x"})
    await create(acme)
    found = await acme.get(JOBS, params={"metadata[team]": "b", f"metadata[{odd}]": "x"})
    assert [job["id"] for job in found.json()["data"]] == [wanted["id"]]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"after": "?"}])
async def test_a_wrong_page_is_400(acme: httpx.AsyncClient, query: dict[str, Any]) -> None:
    answer = await acme.get(JOBS, params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(query))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/checkpoints")],
)
async def test_another_tenants_job_is_as_unknown_as_none(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    training_file: str,
    method: str,
    path: str,
) -> None:
    job = (await create(acme))["id"]
    foreign = await globex.request(method, f"{JOBS}/{job}{path}")
    nothing = await globex.request(method, f"{JOBS}/ftjob-none{path}")
    assert foreign.status_code == nothing.status_code == 404
    assert foreign.text.replace(job, "ftjob-none") == nothing.text


async def test_a_queued_job_is_cancelled_at_once_and_again(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    first = (await acme.post(f"{JOBS}/{job}/cancel")).json()
    assert first["status"] == "cancelled"
    assert first["finished_at"] is not None
    again = await acme.post(f"{JOBS}/{job}/cancel")
    assert (again.status_code, again.json()) == (200, first)
    assert len((await events(acme, job))["data"]) == 2
    async with database.write() as session:
        assert await JobRepository(session).claim("runtime", 15, Quotas()) is None


async def test_a_running_job_is_asked_to_stop_and_runs_until_it_does(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    held = await claim(database)
    for _ in range(2):
        assert (await acme.post(f"{JOBS}/{job}/cancel")).json()["status"] == "running"
    messages = [event["message"] for event in (await events(acme, job))["data"]]
    assert sum("Cancellation" in message for message in messages) == 1
    async with database.write() as session:
        jobs = JobRepository(session)
        assert await jobs.heartbeat(job, held.lease_token, 15) is True
        await jobs.finish(job, held.lease_token, "cancelled")
    assert (await acme.get(f"{JOBS}/{job}")).json()["status"] == "cancelled"


@pytest.mark.parametrize("ending", ["succeeded", "failed"])
async def test_what_has_ended_cannot_be_cancelled(
    acme: httpx.AsyncClient, database: Database, training_file: str, ending: Any
) -> None:
    job = (await create(acme))["id"]
    held = await claim(database)
    async with database.write() as session:
        await JobRepository(session).finish(
            job, held.lease_token, ending, fine_tuned_model=None, error_code="x"
        )
    answer = await acme.post(f"{JOBS}/{job}/cancel")
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"


async def test_a_finished_job_shows_what_came_of_it(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    held = await claim(database)
    async with database.write() as session:
        jobs = JobRepository(session)
        await jobs.progress(job, held.lease_token, trained_tokens=50, estimated_finish=99)
    running = (await acme.get(f"{JOBS}/{job}")).json()
    assert (running["status"], running["trained_tokens"]) == ("running", None)
    assert running["estimated_finish"] == 99
    async with database.write() as session:
        jobs = JobRepository(session)
        name = f"ft:{BASE}:acme:x:12345678"
        await jobs.finish(
            job, held.lease_token, "succeeded", fine_tuned_model=name, trained_tokens=100
        )
    done = (await acme.get(f"{JOBS}/{job}")).json()
    FineTuningJob.model_validate(done, strict=True)
    assert (done["status"], done["fine_tuned_model"]) == ("succeeded", name)
    assert (done["trained_tokens"], done["estimated_finish"]) == (100, None)


async def test_a_failed_job_says_why(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    held = await claim(database)
    async with database.write() as session:
        await JobRepository(session).finish(
            job,
            held.lease_token,
            "failed",
            error_code="no_loss",
            error_message="Nothing to learn",
            error_param="training_file",
        )
    error = (await acme.get(f"{JOBS}/{job}")).json()["error"]
    assert error == {"code": "no_loss", "message": "Nothing to learn", "param": "training_file"}
    newest = (await events(acme, job))["data"][0]
    assert newest["level"] == "error"
    assert "Nothing to learn" in newest["message"]


async def test_events_are_openais_newest_first_page_by_page(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    held = await claim(database)
    async with database.write() as session:
        jobs = JobRepository(session)
        jobs.tell(held, "Step 1", data={"step": 1})
    first = await events(acme, job, limit=2)
    for event in first["data"]:
        FineTuningJobEvent.model_validate(event, strict=True)
    assert [event["type"] for event in first["data"]] == ["metrics", "message"]
    assert first["data"][0]["data"] == {"step": 1}
    assert first["has_more"] is True
    rest = await events(acme, job, limit=2, after=first["data"][-1]["id"])
    assert [event["message"] for event in rest["data"]] == [f"Created fine-tuning job: {job}"]
    assert rest["has_more"] is False
    other = (await create(acme))["id"]
    strange = await acme.get(f"{JOBS}/{other}/events", params={"after": first["data"][0]["id"]})
    assert strange.status_code == 400
    assert strange.json()["error"]["param"] == "after"


async def test_checkpoints_are_openais_newest_first_page_by_page(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    held = await claim(database)
    async with database.write() as session:
        for step in (5, 10, 15):
            await JobRepository(session).record_checkpoint(
                job,
                held.lease_token,
                step_number=step,
                model_name=f"m:ckpt-step-{step}",
                metrics={"train_loss": 0.5, "full_valid_loss": 0.6},
            )
    page = (await acme.get(f"{JOBS}/{job}/checkpoints", params={"limit": 2})).json()
    for checkpoint in page["data"]:
        FineTuningJobCheckpoint.model_validate(checkpoint)
    assert [checkpoint["step_number"] for checkpoint in page["data"]] == [15, 10]
    assert page["data"][0]["metrics"]["full_valid_loss"] == 0.6
    assert page["data"][0]["metrics"]["valid_loss"] is None
    assert page["data"][0]["fine_tuning_job_id"] == job
    assert (page["first_id"], page["last_id"]) == tuple(one["id"] for one in page["data"])
    after = {"limit": 2, "after": page["last_id"]}
    rest = (await acme.get(f"{JOBS}/{job}/checkpoints", params=after)).json()
    assert ([one["step_number"] for one in rest["data"]], rest["has_more"]) == ([5], False)


async def test_nobody_looks_for_events_once_the_app_has_stopped(app: Litestar) -> None:
    before = asyncio.all_tasks()
    async with running(app):
        jobs = await app.dependencies["jobs"].dependency()  # type: ignore[operator]
        with pytest.raises(NotFound):
            await anext(jobs.follow("acme", "ftjob-of-nobody", None))
    assert asyncio.all_tasks() == before


async def test_the_stream_tells_everything_oldest_first_and_ends_with_the_job(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = (await create(acme))["id"]
    following = asyncio.create_task(
        acme.get(f"{JOBS}/{job}/events", params={"stream": "true"}, timeout=30)
    )
    held = await claim(database)
    async with database.write() as session:
        JobRepository(session).tell(held, "Step 1", data={"step": 1})
    async with database.write() as session:
        await JobRepository(session).finish(job, held.lease_token, "succeeded")
    answer = await following
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.splitlines()
    told = [msgspec.json.decode(line[6:]) for line in lines if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    listed = (await events(acme, job))["data"]
    assert told == listed[::-1]
    assert [line[4:] for line in lines if line.startswith("id: ")] == [e["id"] for e in told]
    after = {"stream": "true", "after": told[-2]["id"]}
    resumed = await acme.get(f"{JOBS}/{job}/events", params=after)
    assert resumed.text.count("data: {") == 1
    # Whoever comes back has the `after` of the beginning in the URL still.
    back = {"last-event-id": told[-2]["id"]}
    behind = {"stream": "true", "after": told[0]["id"]}
    resumed = await acme.get(f"{JOBS}/{job}/events", params=behind, headers=back)
    assert resumed.text.count("data: {") == 1
    unknown = await acme.get(
        f"{JOBS}/{job}/events", params={"stream": "true"}, headers={"last-event-id": "x"}
    )
    assert unknown.status_code == 400


async def test_a_stream_of_no_job_is_404(acme: httpx.AsyncClient) -> None:
    answer = await acme.get(f"{JOBS}/ftjob-none/events", params={"stream": "true"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


async def test_a_key_without_the_scope_is_403(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    body = {"name": "narrow", "scopes": ["files"]}
    key = (await admin.post("/v1/admin/tenants/acme/keys", json=body)).json()["key"]
    headers = {"authorization": f"Bearer {key}"}
    assert (await client.get(JOBS, headers=headers)).status_code == 403
    assert (await client.get(JOBS)).status_code == 401


async def test_a_job_keeps_the_alias_that_its_result_is_to_have(
    acme: httpx.AsyncClient, database: Database, training_file: str
) -> None:
    job = await create(acme, suffix="support", publish={"alias": "production"})
    FineTuningJob.model_validate(job, strict=True)
    assert job["publish"] == {"alias": "production"}
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job
    assert (await claim(database)).publish_alias == "production"
    assert (await create(acme))["publish"] is None
    for wrong, param in (({}, "publish.alias"), ({"alias": "deadbeef"}, "publish.alias")):
        assert (await refused(acme, 400, publish=wrong))["param"] == param
