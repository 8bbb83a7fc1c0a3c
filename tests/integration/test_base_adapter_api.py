"""Jobs that go on from a fine-tuned model: found, shaped, held, over HTTP."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from openai.types.fine_tuning import FineTuningJob

from adapters_store import AdapterStore, RevisionRef
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService, Target
from service.base.description import BaseDescription
from service.database import Database
from service.errors import NotFound
from service.jobs.create_schemas import CreateJob
from service.jobs.repository import JobRepository
from service.jobs.service import JobService
from service.tenants.quotas import Quotas
from service.training.spec import BaseAdapter, LoraSpec, TrainingSpec
from tests.builders import a_peft_folder, an_origin
from tests.integration.test_jobs_api import JOBS, a_file, claim, create, refused

FIELD = "method.supervised.base_adapter"


class Parents:
    """Publishes adapters as finished jobs would have."""

    def __init__(
        self, database: Database, store: AdapterStore, base: BaseDescription, folder: Path
    ) -> None:
        self.database, self.store, self.base, self.folder = database, store, base, folder
        self.count = 0

    async def publish(
        self, tenant: str = "acme", step: int | None = None, seed: int = 0, **config: Any
    ) -> tuple[str, RevisionRef]:
        """Make one; give its exact name and where it is."""
        self.count += 1
        folder = a_peft_folder(self.folder / str(self.count), seed=seed, **config)
        origin = an_origin(base_digest=self.base.digest)
        ref = self.store.publish(tenant, "first", folder, origin).ref
        return await self.record(ref, step), ref

    def deleting(self, name: str) -> ModelService:
        """Make a service that finds the model, and loses it at once."""

        class Fleeting(ModelService):
            async def resolve(self, tenant_id: str, model: str) -> Target:
                target = await super().resolve(tenant_id, model)
                async with self.database.write() as session:
                    revisions = RevisionRepository(session)
                    found = await revisions.find(tenant_id, name)
                    assert found is not None
                    assert await revisions.forget(*found)
                return target

        return Fleeting(self.database, self.store, self.base)

    async def record(self, ref: RevisionRef, step: int | None = None) -> str:
        """Give a revision a name."""
        async with self.database.write() as session:
            return await RevisionRepository(session).record(
                ref.tenant,
                ref.adapter,
                ref.digest,
                base_name=self.base.name,
                format="chat",
                job_id="ftjob-1",
                size=0,
                step=step,
            )


@pytest.fixture
async def parents(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    database: Database,
    store: AdapterStore,
    base: BaseDescription,
    tmp_path: Path,
) -> Parents:
    for tenant in ("acme", "globex"):
        await a_file(database, f"file-{tenant}", tenant)
    return Parents(database, store, base, tmp_path / "parents")


def going_on(name: str, **supervised: Any) -> dict[str, Any]:
    fields = {"base_adapter": name} | supervised
    return {
        "training_file": "file-acme",
        "method": {"type": "supervised", "supervised": fields},
    }


def means_the_model(name: str) -> dict[str, Any]:
    return {"training_file": "file-acme", "model": name}


async def test_the_spec_names_an_exact_revision_that_never_moves(
    acme: httpx.AsyncClient, database: Database, parents: Parents
) -> None:
    name, ref = await parents.publish(use_rslora=True)
    job = await create(acme, **going_on("first"))
    FineTuningJob.model_validate(job, strict=True)
    assert job["method"]["supervised"]["base_adapter"] == name
    assert job["model"] == parents.base.name
    await parents.publish(seed=1)
    spec = msgspec.convert((await claim(database)).spec, TrainingSpec)
    assert spec.base_adapter == BaseAdapter(adapter="first", digest=ref.digest)
    assert spec.lora == LoraSpec(
        rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"), rslora=True
    )


async def test_a_fine_tuned_model_as_the_model_means_the_same(
    acme: httpx.AsyncClient, parents: Parents
) -> None:
    name, _ = await parents.publish()
    by_field = await create(acme, **going_on(name), seed=1)
    by_model = await create(acme, **means_the_model(name), seed=1)
    assert by_model["method"] == by_field["method"]
    assert by_model["model"] == parents.base.name


@pytest.mark.parametrize(("ask", "param"), [(going_on, FIELD), (means_the_model, "model")])
async def test_anothers_adapter_is_as_unknown_as_none(
    acme: httpx.AsyncClient, parents: Parents, ask: Any, param: str
) -> None:
    foreign, _ = await parents.publish("globex")
    missing = foreign.replace(":globex:", ":acme:")
    errors = [await refused(acme, 404, **ask(name)) for name in (foreign, missing)]
    assert [error["code"] for error in errors] == ["model_not_found"] * 2
    assert [error["param"] for error in errors] == [param] * 2
    assert errors[0]["message"].replace(foreign, missing) == errors[1]["message"]
    assert (await acme.get(JOBS)).json()["data"] == []


@pytest.mark.parametrize("name", ["nothing", "first@prod", "ft:x", "../x", "a\u0000b"])
async def test_a_name_that_stands_for_nothing_is_404(
    acme: httpx.AsyncClient, parents: Parents, name: str
) -> None:
    await parents.publish()
    error = await refused(acme, 404, **going_on(name))
    assert (error["code"], error["param"]) == ("model_not_found", FIELD)


async def test_another_shape_is_400_by_name(acme: httpx.AsyncClient, parents: Parents) -> None:
    name, _ = await parents.publish()
    error = await refused(acme, 400, **going_on(name, lora={"rank": 8}))
    assert error["param"] == "method.supervised.lora.rank"
    assert "is 4" in error["message"]
    assert (await create(acme, **going_on(name, lora={"rank": 4})))["status"] == "queued"


async def test_an_adapter_of_another_base_or_with_damaged_files_is_409(
    acme: httpx.AsyncClient, parents: Parents, tmp_path: Path
) -> None:
    folder = a_peft_folder(tmp_path / "other")
    other = parents.store.publish("acme", "other", folder, an_origin()).ref
    await parents.record(other)
    error = await refused(acme, 409, **going_on("other"))
    assert (error["code"], error["param"]) == ("adapter_base_mismatch", FIELD)
    _, ref = await parents.publish()
    weights = parents.store.open(ref).path / "adapter_model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-4])
    error = await refused(acme, 409, **going_on("first"))
    assert (error["code"], error["param"]) == ("adapter_not_loadable", FIELD)


async def test_a_revision_that_the_gate_rejected_is_409(
    acme: httpx.AsyncClient, database: Database, parents: Parents
) -> None:
    _, ref = await parents.publish()
    bad = "b" * 64
    async with database.write() as session:
        await RevisionRepository(session).reject(
            "acme",
            ref.adapter,
            bad,
            format="chat",
            job_id=None,
            step=None,
            size=0,
            gate={"reason": "so"},
        )
    error = await refused(acme, 409, **going_on(f"{ref.adapter}@{bad[:8]}"))
    assert (error["code"], error["param"]) == ("revision_rejected", FIELD)


async def test_a_revision_cannot_be_deleted_while_a_job_goes_on_from_it(
    acme: httpx.AsyncClient, parents: Parents
) -> None:
    name, ref = await parents.publish()
    job = await create(acme, **going_on(name))
    path = f"/v1/models/{quote(name, safe='')}"
    answer = await acme.delete(path)
    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "model_in_use"
    assert job["id"] in answer.json()["error"]["message"]
    assert (await acme.get(path)).status_code == 200
    parents.store.open(ref)
    await acme.post(f"{JOBS}/{job['id']}/cancel")
    assert (await acme.delete(path)).status_code == 200


@pytest.mark.parametrize(
    "ending", [{"status": "succeeded"}, {"status": "failed", "error_code": "any"}]
)
async def test_a_job_that_has_ended_holds_nothing(
    acme: httpx.AsyncClient, database: Database, parents: Parents, ending: Any
) -> None:
    name, _ = await parents.publish()
    await create(acme, **going_on(name))
    held = await claim(database)
    path = f"/v1/models/{quote(name, safe='')}"
    assert (await acme.delete(path)).status_code == 409
    async with database.write() as session:
        await JobRepository(session).finish(held.id, held.lease_token, **ending)
    assert (await acme.delete(path)).status_code == 200


async def test_an_adapter_that_is_deleted_while_the_job_is_accepted_is_404(
    acme: httpx.AsyncClient, database: Database, parents: Parents
) -> None:
    name, _ = await parents.publish()
    models = parents.deleting(name)
    jobs = JobService(database, parents.base, models, Quotas())
    body = {"model": parents.base.name} | going_on(name)
    with pytest.raises(NotFound) as raised:
        await jobs.create("acme", msgspec.convert(body, CreateJob))
    assert (raised.value.code, raised.value.param) == ("model_not_found", FIELD)
    assert (await acme.get(JOBS)).json()["data"] == []


async def test_only_the_last_name_of_the_revision_is_held(
    acme: httpx.AsyncClient, parents: Parents
) -> None:
    name, ref = await parents.publish()
    checkpoint = await parents.record(ref, step=5)
    other, _ = await parents.publish(seed=1)
    await create(acme, **going_on(name))
    for free in (other, name):
        assert (await acme.delete(f"/v1/models/{quote(free, safe='')}")).status_code == 200
    assert (await acme.delete(f"/v1/models/{quote(checkpoint, safe='')}")).status_code == 409


async def test_a_like_named_adapter_of_another_tenant_is_not_held(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, parents: Parents
) -> None:
    mine, ref = await parents.publish()
    theirs, same = await parents.publish("globex")
    assert ref.digest == same.digest
    await create(acme, **going_on(mine))
    assert (await globex.delete(f"/v1/models/{quote(theirs, safe='')}")).status_code == 200


async def test_a_job_of_before_there_was_such_a_choice_is_still_shown(
    acme: httpx.AsyncClient, database: Database, parents: Parents
) -> None:
    job = await create(acme, training_file="file-acme")
    newer = {"eval_steps", "early_stopping", "base_adapter"}
    async with database.write() as session:
        row = await JobRepository(session).get("acme", job["id"], lock=True)
        older = {k: v for k, v in row.method["supervised"].items() if k not in newer}
        row.method = {"type": "supervised", "supervised": older}
    assert (await acme.get(f"{JOBS}/{job['id']}")).json() == job
