"""`POST /v1/fine_tuning/plan`: what a job would be, told without one."""

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import func, select, update

from adapters_store import AdapterStore
from service.adapters.service import ModelService
from service.base.description import BaseDescription
from service.base.hardware import Hardware
from service.base.memory_plan import Demand, Held, plan
from service.base.model_shape import shape_of
from service.base.wanted import sharing
from service.database import Database
from service.database.models import JobRow, TenantRow
from service.datasets.folder import FileFolder
from service.jobs.create_schemas import CreateJob
from service.jobs.plan_survey import Found, Stopped, SurveyStopped
from service.jobs.planning import PlanService
from service.jobs.runtimes import Report, RuntimeRepository
from service.jobs.service import Draft, JobService
from service.rendering.renderer import Renderer
from service.settings import Settings
from service.tenants.quotas import Quotas
from service.training.spec import TrainingSpec
from tests.integration.live import PATIENCE_SECONDS, eventually
from tests.integration.test_base_adapter_api import Parents
from tests.integration.test_methods_api import CHECK, PAIR, PROMPT, uploaded

PLAN, JOBS = "/v1/fine_tuning/plan", "/v1/fine_tuning/jobs"
BASE = "lorehouse-tiny"
Json = dict[str, Any]
GPU = Hardware(
    name="a GPU",
    device="cuda",
    free=2**33,
    quantization="nf4",
    compute_dtype="bfloat16",
    memory=None,
)


def chat(question: str, answer: str) -> Json:
    messages = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def rows(count: int) -> list[Json]:
    return [chat(f"Say {number}", f"It is {number}.") for number in range(count)]


def supervised(**fields: Any) -> Json:
    return {"type": "supervised", "supervised": fields}


async def planned(client: httpx.AsyncClient, file: Json, **fields: Any) -> Json:
    body = {"model": BASE, "training_file": file["id"], "seed": 5} | fields
    answer = await client.post(PLAN, json=body)
    assert answer.status_code == 200, answer.text
    made: Json = answer.json()
    return made


async def told(database: Database, seconds: int = 60, base: str = BASE, **report: Any) -> None:
    """Have a runtime tell of itself."""
    given = {"hardware": GPU, "tokens_per_second": {}} | report
    async with database.write() as session:
        runtimes = RuntimeRepository(session)
        await runtimes.report(f"runtime-{seconds}", base, Report(**given), seconds)


def a_small_device(base: BaseDescription, free: int, **changes: Any) -> Hardware:
    """Plan a device as a runtime does."""
    shape = shape_of(base.config)
    demand = Demand(targets=frozenset(shape.linears), training_slots=2)
    held = Held("nf4", 4, "cpu")
    given = {
        "name": "a CPU",
        "device": "cpu",
        "free": free,
        "quantization": "nf4",
        "compute_dtype": "float32",
        "memory": plan(shape, held, demand, free),
    }
    return Hardware(**given | changes)


async def test_a_plan_says_what_the_job_would_be_and_leaves_none(
    acme: httpx.AsyncClient, database: Database
) -> None:
    file = await uploaded(acme, *rows(40))
    method = supervised(hyperparameters={"batch_size": 4, "n_epochs": 2}, validation_split=0.1)
    made = await planned(acme, file, method=method, suffix="support")
    assert made["object"] == "fine_tuning.job.plan"
    assert (made["model"], made["training_file"], made["seed"]) == (BASE, file["id"], 5)
    data = made["data"]
    assert data["rows"] == 40
    assert (data["train"]["examples"], data["validation"]["examples"]) == (36, 4)
    assert data["train"]["tokens"] + data["validation"]["tokens"] == file["tokens"]
    longest = max(data[side]["longest"] for side in ("train", "validation"))
    assert longest == file["longest_example"]
    assert made["steps"] == {"per_epoch": 9, "total": 18, "warmup": 1}
    assert made["trained_tokens"] == 2 * data["train"]["tokens"]
    assert (made["admitted"], made["reason"]) == (True, None)
    assert (made["hardware"], made["tokens_per_second"], made["estimated_seconds"]) == (
        [],
        None,
        None,
    )
    body = {"model": BASE, "training_file": file["id"], "seed": 5, "method": method}
    async with database.read() as session:
        assert not await session.scalar(select(func.count()).select_from(JobRow))
    job = (await acme.post(JOBS, json=body)).json()
    assert job["method"] == made["method"]


async def test_the_data_is_looked_at_as_training_will_see_it(acme: httpx.AsyncClient) -> None:
    long = chat("Say a lot", "so " * 60)
    endless = chat("so " * 90, "yes")
    given = [*rows(6), *rows(2), long, endless, chat("a", "yes"), chat("b", "yes"), chat("c", "-")]
    file = await uploaded(acme, *given)
    held_out = await uploaded(acme, rows(1)[0], chat("new", "It is new."))
    method = supervised(max_length=60)
    made = await planned(acme, file, validation_file=held_out["id"], method=method)
    data = made["data"]
    assert (data["rows"], data["train"]["examples"], data["train"]["dropped"]) == (13, 12, 1)
    assert (data["train"]["truncated"], data["train"]["longest"]) == (2, 60)
    assert (data["duplicates"], data["overlap"], data["compared_rows"]) == (2, 1, 15)
    answers = data["answers"]
    assert (answers["count"], answers["different"], answers["near_empty"]) == (13, 9, 1)
    assert answers["most_frequent"][0] == {"answer": "yes", "count": 3, "share": 3 / 13}
    advice = {one["code"]: one["message"] for one in made["advice"]}
    assert {"duplicates", "overlap", "truncated", "dropped", "near_empty_answers"} < advice.keys()
    assert "few-shot" in advice["few_examples"]
    assert "retrieval" in advice["few_examples"]


async def test_memory_is_told_by_part_here_and_on_common_cards(
    acme: httpx.AsyncClient, database: Database, base: BaseDescription
) -> None:
    file = await uploaded(acme, *rows(8))
    await told(database, hardware=a_small_device(base, 2**30), tokens_per_second={"supervised": 50})
    await told(database, -1, hardware=a_small_device(base, 2**31))
    await told(database, 61, base="another")
    made = await planned(acme, file)
    [here] = made["hardware"]
    assert (here["name"], here["bytes"]) == ("a CPU", 2**30)
    names = [card["name"] for card in made["cards"]]
    assert [name.split()[-2] for name in names] == ["24", "40", "48", "80", "141"]
    for device in (here, *made["cards"]):
        for held in ("nf4", "bf16"):
            parts = device[held]
            names = ("base", "adapters", "optimizer", "activations")
            assert parts["total"] == sum(parts[name] for name in names)
            assert parts["fits"]
            assert parts["optimizer"] == 3 * parts["adapters"]
        assert device["nf4"]["base"] != device["bf16"]["base"]
    assert here["shared"] is None
    for card in made["cards"]:
        split = card["shared"]
        assert (split["together"], split["reason"]) == (True, None)
        assert 0 < split["gpu_memory_utilization"] < 1
        served = split["gpu_memory_utilization"] * card["bytes"]
        assert served + split["training_bytes"] == pytest.approx(card["bytes"] - 2**30, rel=1e-6)
    assert made["tokens_per_second"] == 50
    assert made["estimated_seconds"] == round(made["trained_tokens"] / 50)


async def test_what_a_runtime_will_refuse_is_told_beforehand_with_the_figures(
    acme: httpx.AsyncClient, database: Database, base: BaseDescription
) -> None:
    file = await uploaded(acme, *rows(8))
    await told(database, hardware=a_small_device(base, 2**26))
    made = await planned(acme, file, method=supervised(lora={"rank": 256}))
    assert made["admitted"] is False
    assert made["reason"]["code"] == "out_of_memory"
    assert made["reason"]["param"] == "method.supervised.lora.rank"
    assert "GiB are needed" in made["reason"]["message"]
    [here] = made["hardware"]
    assert here["nf4"]["fits"] is False


async def test_what_the_data_will_fail_is_told_beforehand(acme: httpx.AsyncClient) -> None:
    file = await uploaded(acme, *rows(8))
    made = await planned(acme, file, method=supervised(max_length=8))
    assert (made["admitted"], made["reason"]["code"]) == (False, "no_trainable_examples")
    assert (made["steps"], made["trained_tokens"]) == (None, 0)
    held_out = await uploaded(acme, chat("so " * 200, "yes"))
    method = supervised(max_length=60, early_stopping={"patience": 1})
    made = await planned(acme, file, validation_file=held_out["id"], method=method)
    assert (made["admitted"], made["reason"]["code"]) == (False, "no_validation_examples")
    assert made["reason"]["param"] == "method.supervised.early_stopping"
    ungradable = await uploaded(acme, PROMPT, {"messages": PROMPT["messages"]})
    method = {"type": "reinforcement", "reinforcement": {"grader": CHECK}}
    made = await planned(acme, ungradable, method=method)
    assert (made["admitted"], made["reason"]["code"]) == (False, "invalid_training_file")
    assert "cannot be graded" in made["reason"]["message"]
    assert (made["data"], made["steps"], made["trained_tokens"]) == (None, None, None)


async def test_a_base_that_is_held_otherwise_is_told_beforehand(
    acme: httpx.AsyncClient, database: Database
) -> None:
    file = await uploaded(acme, *rows(8))
    await told(database)
    made = await planned(acme, file, method=supervised(quantization="nf4"))
    assert made["admitted"]
    await told(database, 61, hardware=msgspec.structs.replace(GPU, quantization="none"))
    made = await planned(acme, file, method=supervised(quantization="nf4"))
    assert made["reason"]["param"] == "method.supervised.quantization"


async def test_a_quota_that_would_not_allow_it_is_told(
    acme: httpx.AsyncClient, database: Database
) -> None:
    file = await uploaded(acme, *rows(8))
    limits = {"trained_tokens_per_month": 100, "queued_jobs": 5}
    async with database.write() as session:
        await session.execute(update(TenantRow).values(limits=limits))
    made = await planned(acme, file)
    quotas = {one["quota"]: one for one in made["quotas"]}
    assert quotas["queued_jobs"] == {"quota": "queued_jobs", "asked": 1, "used": 0, "limit": 5}
    assert quotas["adapters"]["limit"] is None
    asked = quotas["trained_tokens_per_month"]["asked"]
    assert asked == file["tokens"] * made["method"]["supervised"]["hyperparameters"]["n_epochs"]
    assert made["admitted"] is False
    assert made["reason"]["code"] == "insufficient_quota"
    refused = await acme.post(JOBS, json={"model": BASE, "training_file": file["id"]})
    assert refused.json()["error"]["message"] == made["reason"]["message"]


async def test_who_has_no_room_left_is_told_that_no_job_may_begin(
    acme: httpx.AsyncClient, database: Database
) -> None:
    file = await uploaded(acme, *rows(8))
    async with database.write() as session:
        await session.execute(update(TenantRow).values(limits={"stored_bytes": file["bytes"]}))
    made = await planned(acme, file)
    assert "'stored_bytes'" in made["reason"]["message"]
    refused = await acme.post(JOBS, json={"model": BASE, "training_file": file["id"]})
    assert refused.json()["error"]["message"] == made["reason"]["message"]


async def test_the_other_methods_are_planned_too(acme: httpx.AsyncClient) -> None:
    pairs = await uploaded(acme, *[PAIR] * 5)
    made = await planned(acme, pairs, method={"type": "dpo"})
    data, epochs = made["data"], made["method"]["dpo"]["hyperparameters"]["n_epochs"]
    assert data["train"]["tokens"] + data["validation"]["tokens"] == pairs["tokens"]
    assert made["trained_tokens"] == epochs * data["train"]["tokens"]
    assert (data["duplicates"], data["overlap"]) == (3, 1)
    assert made["cards"][0]["nf4"]["total"] is None
    prompts = await uploaded(acme, *[PROMPT] * 5)
    method = {
        "type": "reinforcement",
        "reinforcement": {"grader": CHECK, "max_completion_tokens": 10, "validation_split": 0.0},
    }
    made = await planned(acme, prompts, method=method)
    knobs = made["method"]["reinforcement"]["hyperparameters"]
    # 5 prompts fill a batch of 8, each answered 8 times in 10 tokens at the most.
    most = knobs["n_epochs"] * 8 * 8 * (prompts["longest_example"] + 10)
    assert made["trained_tokens"] == most
    assert made["data"]["answers"]["count"] == 0
    assert made["steps"]["per_epoch"] == 1


async def test_a_job_that_goes_on_from_a_model_is_planned_with_its_shape(
    acme: httpx.AsyncClient,
    database: Database,
    store: AdapterStore,
    base: BaseDescription,
    tmp_path: Path,
) -> None:
    parents = Parents(database, store, base, tmp_path)
    model, ref = await parents.publish()
    file = await uploaded(acme, *rows(8))
    made = await planned(acme, file, model=model)
    assert made["method"]["supervised"]["base_adapter"] == model
    assert made["method"]["supervised"]["lora"]["rank"] == 4
    assert ref.digest


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "another"}, 404, "model"),
        ({"training_file": "file-nobody"}, 404, "training_file"),
        ({"validation_file": "file-nobody"}, 404, "validation_file"),
        ({"method": supervised(lora={"rank": 0})}, 400, "method.supervised.lora.rank"),
        ({"method": supervised(max_length=32768)}, 400, "method.supervised.max_length"),
        ({"method": {"type": "dpo"}}, 400, "training_file"),
        ({"colour": "blue"}, 400, "colour"),
    ],
)
async def test_what_creating_it_would_refuse_is_refused_alike(
    acme: httpx.AsyncClient, fields: Json, status: int, param: str
) -> None:
    file = await uploaded(acme, *rows(8))
    body = {"model": BASE, "training_file": file["id"]} | fields
    answers = [await acme.post(path, json=body) for path in (PLAN, JOBS)]
    assert [answer.status_code for answer in answers] == [status, status]
    errors = [answer.json()["error"] for answer in answers]
    assert errors[0] == errors[1]
    assert errors[0]["param"] == param


async def test_anothers_file_is_not_there(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient
) -> None:
    file = await uploaded(acme, *rows(8))
    body = {"model": BASE, "training_file": file["id"]}
    answer = await globex.post(PLAN, json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "training_file"


class Waiting(PlanService):
    """Reads its files until nobody waits for them any more."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.reading, self.ended = threading.Event(), threading.Event()

    def _read(self, tenant_id: str, draft: Draft, spec: TrainingSpec, stopped: Stopped) -> Found:
        self.reading.set()
        eventually(stopped)
        self.ended.set()
        raise SurveyStopped


async def test_reading_ends_when_nobody_waits_for_the_plan(
    acme: httpx.AsyncClient,
    settings: Settings,
    database: Database,
    store: AdapterStore,
    renderer: Renderer,
) -> None:
    file = await uploaded(acme, *rows(8))
    jobs = JobService(
        database, renderer.base, ModelService(database, store, renderer.base), Quotas()
    )
    wanted = partial(sharing, settings, renderer.base.context_length, 36)
    plans = Waiting(jobs, FileFolder(settings.data_dir), renderer, wanted)
    body = CreateJob(model=BASE, training_file=file["id"])
    planning = asyncio.create_task(plans.plan("acme", body))
    assert await asyncio.to_thread(plans.reading.wait, PATIENCE_SECONDS)
    planning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await planning
    assert await asyncio.to_thread(plans.ended.wait, PATIENCE_SECONDS)
