"""The runtime's work on jobs, on a real database and store: what it promises about them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from adapters_store import FilesystemAdapterStore, RevisionRef
from service.adapters.aliases_repository import AliasRepository, targets_of
from service.adapters.repository import Named, RevisionRepository
from service.adapters.weights import WeightedTarget
from service.base.description import describe
from service.database import Database
from service.database.models import (
    AliasVersionRow,
    FileRow,
    JobCheckpointRow,
    JobEventRow,
    JobRow,
    TenantRow,
)
from service.errors import NotFound
from service.http.tenant_labels import TenantLabels
from service.jobs.leases import MAX_ATTEMPTS
from service.jobs.lifecycle import Action
from service.jobs.repository import JobRepository
from service.rendering.examples import Example
from service.runtime import training
from service.runtime.backoff import Backoff
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.metrics import RuntimeMetrics
from service.runtime.training_parts import Parts
from service.serving.gate import Rules
from service.settings import BUNDLED_BASE
from service.tenants.quotas import Quotas
from service.training.spec import BaseAdapter, EarlyStopping, TrainingSpec
from service.training.trainer import TrainingError
from tests.fakes.engine import FakeEngine
from tests.fakes.trainer import FakeTrainer
from tests.unit.training.tasks import Interrupted, chat, examples

SPEC = TrainingSpec(n_epochs=2, batch_size=4, validation_split=0.2, seed=5)
"""Of 20 examples: 4 held out, 4 steps an epoch."""
LEASE_SECONDS = 5.0


class Gate:
    """Holds the trainer before a step until it is opened; or lets it fail there."""

    def __init__(self) -> None:
        self.closed_at: int | None = None
        self.faults: dict[int, Exception] = {}
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, step: int) -> None:
        if fault := self.faults.pop(step, None):
            raise fault
        if step == self.closed_at:
            self.reached.set()
            assert self.opened.wait(20)


class Workshop:
    """A runtime's parts with a fake trainer, and the rows that jobs need."""

    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self.gate = Gate()
        self.store = FilesystemAdapterStore(root / "adapters")
        self.engine = FakeEngine(self.store)
        self.files: dict[str, list[Example]] = {"file-1": examples(20)}
        self.parts = Parts(
            engine=self.engine,
            owner="training-1",
            lease_seconds=LEASE_SECONDS,
            database=database,
            store=self.store,
            base=describe(str(BUNDLED_BASE)),
            workdirs=root / "jobs",
            examples=self._examples,
            quantization="nf4",
            compute_dtype="float32",
            trainers={"supervised": FakeTrainer(3, self.gate)},
            gate=Gatekeeper(self.engine, Rules(), delays=[0.0]),
            at_once=1,
            quotas=Quotas(),
            healthy=lambda: False,
            retries=Backoff(first=0.0),
        )

    async def _examples(self, tenant: str, file_id: str) -> list[Example]:
        if file_id not in self.files:
            raise NotFound(f"No such File object: {file_id}", param="id")
        return self.files[file_id]

    async def submit(self, job_id: str = "ftjob-a1", tenant: str = "acme", **row: Any) -> None:
        """Queue a job."""
        async with self.database.write() as session:
            await JobRepository(session).add(
                JobRow(
                    **{
                        "id": job_id,
                        "tenant_id": tenant,
                        "status": "queued",
                        "model": "lorehouse-tiny",
                        "adapter": "support",
                        "training_file": "file-1",
                        "seed": 5,
                        "method": {},
                        "spec": msgspec.to_builtins(SPEC),
                        "created_at": 1,
                    }
                    | row
                )
            )

    @asynccontextmanager
    async def working(self, **changes: Any) -> AsyncIterator[asyncio.Task[None]]:
        """Let a runtime work; it is shut down at the end."""
        stop = asyncio.Event()
        parts = msgspec.structs.replace(self.parts, **changes)
        task = asyncio.create_task(training.work(parts, stop))
        try:
            yield task
        finally:
            self.gate.opened.set()
            stop.set()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[JobRow], bool], job_id: str = "ftjob-a1") -> JobRow:
        """Wait until a job is as wanted."""
        async with asyncio.timeout(20):
            while not condition(job := await self.job(job_id)):  # noqa: ASYNC110  it is a row
                await asyncio.sleep(0.02)
        return job

    async def ask(self, action: Action, job_id: str = "ftjob-a1") -> None:
        """Ask, as the job's tenant does."""
        async with self.database.write() as session:
            jobs = JobRepository(session)
            await jobs.ask(await jobs.get("acme", job_id, lock=True), action)

    async def heartbeat(self, job_id: str = "ftjob-a1") -> None:
        """Wait until the runtime has seen what was asked for."""
        before = (await self.job(job_id)).lease_expires_at or 0
        await self.until(lambda job: (job.lease_expires_at or 0) > before, job_id)

    async def lapsed(self, job_id: str = "ftjob-a1", by: float = 0.0) -> bool:
        """Tell whether nobody has renewed a job's lease in time, and for `by` seconds after."""
        return ((await self.job(job_id)).lease_expires_at or 0) + by < time.time()

    async def ended(self, job_id: str = "ftjob-a1") -> JobRow:
        """Wait for a job's end."""
        return await self.until(lambda job: job.finished_at is not None, job_id)

    async def at_step(self, step: int) -> None:
        """Wait until the trainer stands before a step."""
        async with asyncio.timeout(20):
            await asyncio.to_thread(self.gate.reached.wait, 20)
        assert self.gate.closed_at == step

    async def job(self, job_id: str = "ftjob-a1") -> JobRow:
        async with self.database.read() as session:
            return (await session.scalars(select(JobRow).where(JobRow.id == job_id))).one()

    async def events(self, job_id: str = "ftjob-a1") -> list[JobEventRow]:
        job = await self.job(job_id)
        async with self.database.read() as session:
            repository = JobRepository(session)
            events, _ = await repository.news(job.tenant_id, job.id, 0, 1000)
            return list(events)

    async def messages(self, job_id: str = "ftjob-a1") -> list[str]:
        return [event.message for event in await self.events(job_id)]

    async def metrics(self, key: str, job_id: str = "ftjob-a1") -> list[int]:
        """Give the steps of the metrics events that carry `key`."""
        told = [event.data for event in await self.events(job_id) if event.data]
        return [data["step"] for data in told if key in data]

    async def models(self, tenant: str = "acme") -> list[Named]:
        async with self.database.read() as session:
            revisions = RevisionRepository(session)
            found = [
                await revisions.find(tenant, name) for name, _ in await revisions.names(tenant)
            ]
        return [named for named in found if named is not None]

    async def aliases(self, adapter: str, tenant: str = "acme") -> list[AliasVersionRow]:
        async with self.database.read() as session:
            return list(await AliasRepository(session).of_adapters(tenant, [adapter]))

    async def checkpoints(self, job_id: str = "ftjob-a1") -> list[JobCheckpointRow]:
        job = await self.job(job_id)
        async with self.database.read() as session:
            found = await JobRepository(session).checkpoints(job.tenant_id, job.id, None, 100)
            return list(reversed(found))


@pytest.fixture
async def shop(database: Database, tmp_path: Path) -> Workshop:
    async with database.write() as session:
        for tenant in ("acme", "globex"):
            session.add(TenantRow(id=tenant, created_at=1))
        await session.flush()
        for name in ("file-1", "file-2"):
            session.add(_file(name))
    return Workshop(database, tmp_path)


def _file(name: str, tenant: str = "acme") -> FileRow:
    return FileRow(
        id=name,
        tenant_id=tenant,
        filename="rows.jsonl",
        purpose="fine-tune",
        bytes=1,
        sha256=name,
        created_at=1,
        rows=20,
    )


async def test_a_job_tells_its_story_in_order_and_succeeds(shop: Workshop) -> None:
    await shop.submit()
    async with shop.working():
        job = await shop.ended()
    assert (job.status, job.error_code) == ("succeeded", None)
    ckpt4, ckpt8 = [row.model_name for row in await shop.checkpoints()]
    assert ckpt4.endswith(":ckpt-step-4")
    assert ckpt8 == f"{job.fine_tuned_model}:ckpt-step-8"
    assert await shop.messages() == [
        "Fine-tuning job started",
        "Step 0/8: validation loss=5.00",
        "Step 1/8: training loss=4.00",
        "Step 2/8: training loss=2.00",
        "Step 3/8: training loss=1.33",
        "Step 4/8: training loss=1.00",
        "Step 4/8: validation loss=1.00",
        f"Checkpoint created at step 4 with Snapshot ID: {ckpt4}",
        "Step 5/8: training loss=0.80",
        "Step 6/8: training loss=0.67",
        "Step 7/8: training loss=0.57",
        "Step 8/8: training loss=0.50",
        "Step 8/8: validation loss=0.56",
        f"Checkpoint created at step 8 with Snapshot ID: {ckpt8}",
        f"New fine-tuned model created: {job.fine_tuned_model}",
        f"The job has successfully completed: {job.fine_tuned_model}",
    ]
    assert job.trained_tokens is not None
    assert job.trained_tokens > 0
    assert job.estimated_finish is None
    assert job.lease_owner is None


async def test_a_job_is_traced_and_counted_from_its_request_to_its_end(
    shop: Workshop, spans: InMemorySpanExporter
) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    registry = CollectorRegistry()
    metrics = RuntimeMetrics(registry, TenantLabels())
    await shop.submit(traceparent=parent)
    async with shop.working(metrics=metrics):
        job = await shop.ended()
    told = {span.name: span for span in spans.get_finished_spans()}
    assert set(told) == {"job", "job.queue", "job.train", "job.publish", "job.gate"}
    assert {f"{span.context.trace_id:032x}" for span in told.values()} == {"a" * 32}
    assert f"{told['job'].parent.span_id:016x}" == "b" * 16
    trained = told["job.train"].attributes or {}
    assert trained["tokens"] == job.trained_tokens
    counted = {"tenant": "acme"}
    assert registry.get_sample_value("lorehouse_trained_tokens_total", counted) == trained["tokens"]
    assert registry.get_sample_value("lorehouse_training_steps_total") == trained["steps"]
    assert registry.get_sample_value("lorehouse_training_jobs") == 0
    ended = {"status": "succeeded"}
    assert registry.get_sample_value("lorehouse_jobs_ended_total", ended) == 1


async def test_a_job_publishes_its_result_under_the_alias_it_was_given(shop: Workshop) -> None:
    async with shop.database.write() as session:
        aliases = AliasRepository(session)
        canary = [WeightedTarget("a" * 64, 95), WeightedTarget("b" * 64, 5)]
        await aliases.add("acme", "support", "production", canary, key_id="key_1", reason="try it")
    await shop.submit(publish_alias="production")
    await shop.submit("ftjob-b1", publish_alias="first", adapter="other")
    await shop.submit("ftjob-c1", adapter="third")
    async with shop.working():
        for job_id in ("ftjob-a1", "ftjob-b1", "ftjob-c1"):
            assert (await shop.ended(job_id)).status == "succeeded"
    digests = {model.name: revision.digest for model, revision in await shop.models()}
    for job_id, name, version in (
        ("ftjob-a1", "support@production", 2),
        ("ftjob-b1", "other@first", 1),
    ):
        result = (await shop.job(job_id)).fine_tuned_model
        assert result is not None
        [row] = await shop.aliases(name.partition("@")[0])
        assert (f"{row.adapter}@{row.alias}", row.version) == (name, version)
        assert targets_of(row) == [WeightedTarget(digests[result], 1)]
        assert (row.reason, row.key_id) == (f"job {job_id}", None)
        told = await shop.messages(job_id)
        assert told[-2] == f"Alias {name} now names {result}"
    assert await shop.aliases("third") == []
    loaded = (await shop.engine.status()).resident
    aliased = {
        digests[(await shop.job(job_id)).fine_tuned_model or ""]
        for job_id in ("ftjob-a1", "ftjob-b1")
    }
    assert {ref.digest for ref in loaded} == aliased, "it will be called; the third may not be"


async def test_a_job_ends_well_where_no_engine_hears_of_its_result(shop: Workshop) -> None:
    elsewhere = FakeEngine()
    elsewhere.available = False
    shop.parts = msgspec.structs.replace(shop.parts, engine=elsewhere)
    await shop.submit(publish_alias="production")
    async with shop.working():
        assert (await shop.ended()).status == "succeeded"


async def test_a_job_that_does_not_succeed_moves_no_alias(shop: Workshop) -> None:
    shop.gate.faults[5] = TrainingError("bad data", code="any")
    await shop.submit(publish_alias="production")
    async with shop.working():
        assert (await shop.ended()).status == "failed"
    assert await shop.aliases("support") == []


async def test_the_result_is_a_revision_that_knows_where_it_comes_from(shop: Workshop) -> None:
    shop.files["file-2"] = examples(3, 100)
    spec = msgspec.structs.replace(SPEC, validation_split=0.0)
    await shop.submit(validation_file="file-2", spec=msgspec.to_builtins(spec))
    async with shop.working():
        job = await shop.ended()
    [(_, revision)] = [
        (model, rev) for model, rev in await shop.models() if model.name == job.fine_tuned_model
    ]
    origin = shop.store.open(RevisionRef("acme", "support", revision.digest)).manifest.origin
    assert (origin.base, origin.job_id, origin.format) == ("lorehouse-tiny", "ftjob-a1", "chat")
    assert (origin.base_digest, origin.quantization) == (shop.parts.base.digest, "nf4")
    assert origin.dataset_digests == ["file-1", "file-2"]
    assert msgspec.convert(origin.spec, TrainingSpec) == spec
    assert origin.metrics["valid_loss"] is not None
    assert set(origin.library_versions) >= {"torch", "peft"}


async def test_a_job_that_gets_no_better_ends_early_with_its_best(shop: Workshop) -> None:
    rule = EarlyStopping(patience=2)
    spec = msgspec.structs.replace(SPEC, n_epochs=5, eval_steps=2, early_stopping=rule)
    await shop.submit(spec=msgspec.to_builtins(spec))
    worsening = FakeTrainer(3, shop.gate, worse_after=8)
    async with shop.working(trainers={"supervised": worsening}):
        job = await shop.ended()
    assert job.status == "succeeded"
    told = await shop.messages()
    assert told[-4:] == [
        "Stopped early at step 12/20: the validation loss did not improve in 2 evaluations",
        "The weights of step 8 are taken, which were the best: validation loss=0.56",
        f"New fine-tuned model created: {job.fine_tuned_model}",
        f"The job has successfully completed: {job.fine_tuned_model}",
    ]
    assert await shop.metrics("valid_loss") == [0, 2, 4, 6, 8, 10, 12]
    # Step 8 ends an epoch: its checkpoint is the same revision.
    [eighth] = [row for row in await shop.checkpoints() if row.step_number == 8]
    assert eighth.model_name == f"{job.fine_tuned_model}:ckpt-step-8"


async def parent_and_spec(shop: Workshop) -> tuple[JobRow, TrainingSpec]:
    """Train a job, and make the spec of one that goes on from it."""
    await shop.submit(adapter="parent")
    async with shop.working():
        parent = await shop.ended()
    [digest] = {r.digest for m, r in await shop.models() if m.name == parent.fine_tuned_model}
    named = BaseAdapter(adapter="parent", digest=digest)
    return parent, msgspec.structs.replace(SPEC, learning_rate=0.0, base_adapter=named)


async def test_a_job_goes_on_from_a_revision_and_its_result_knows_it(shop: Workshop) -> None:
    _, spec = await parent_and_spec(shop)
    assert spec.base_adapter is not None
    await shop.submit("ftjob-a2", adapter="child", spec=msgspec.to_builtins(spec))
    async with shop.working():
        job = await shop.ended("ftjob-a2")
    assert (job.status, job.error_message) == ("succeeded", None)
    [digest] = {r.digest for m, r in await shop.models() if m.name == job.fine_tuned_model}
    # Nothing was learned, so that it is the parent over again.
    assert digest == spec.base_adapter.digest
    origin = shop.store.open(RevisionRef("acme", "child", digest)).manifest.origin
    assert origin.parents == [spec.base_adapter.digest]
    assert msgspec.convert(origin.spec, TrainingSpec) == spec


async def test_a_revision_that_is_gone_damaged_or_anothers_fails_the_job(shop: Workshop) -> None:
    parent, spec = await parent_and_spec(shop)
    assert spec.base_adapter is not None
    ref = RevisionRef("acme", "parent", spec.base_adapter.digest)
    row = msgspec.to_builtins(spec)
    await shop.submit("ftjob-g2", "globex", adapter="child", spec=row)
    async with shop.working():
        foreign = await shop.ended("ftjob-g2")
    config = shop.store.open(ref).path / "adapter_config.json"
    config.chmod(0o600)
    config.write_bytes(config.read_bytes() + b" ")
    await shop.submit("ftjob-a2", adapter="child", spec=row)
    async with shop.working():
        damaged = await shop.ended("ftjob-a2")
    shop.store.delete(ref)
    await shop.submit("ftjob-a3", adapter="child", spec=row)
    async with shop.working():
        gone = await shop.ended("ftjob-a3")
    assert parent.status == "succeeded"
    assert [job.error_code for job in (foreign, damaged, gone)] == [
        "model_not_found",
        "adapter_not_loadable",
        "model_not_found",
    ]
    assert {job.error_param for job in (foreign, damaged, gone)} == {
        "method.supervised.base_adapter"
    }


async def test_a_checkpoint_is_callable_while_training_goes_on(shop: Workshop) -> None:
    await shop.submit()
    shop.gate.closed_at = 6
    async with shop.working():
        await shop.at_step(6)
        [checkpoint] = await shop.checkpoints()
        [(model, revision)] = await shop.models()
        assert model.name == checkpoint.model_name
        assert checkpoint.metrics.keys() >= {"train_loss", "valid_loss"}
        shop.store.open(RevisionRef("acme", "support", revision.digest))
        job = await shop.job()
        assert job.status == "running"
        assert job.estimated_finish is not None


@pytest.mark.parametrize("step", [1, 2, 5, 8])
async def test_a_cancelled_job_stops_within_a_step(shop: Workshop, step: int) -> None:
    await shop.submit()
    shop.gate.closed_at = step
    async with shop.working():
        await shop.at_step(step)
        await shop.ask(Action.CANCEL)
        # One heartbeat sees it, however long the step takes.
        await shop.heartbeat()
        shop.gate.opened.set()
        job = await shop.ended()
    assert (job.status, job.fine_tuned_model) == ("cancelled", None)
    assert max(await shop.metrics("train_loss"), default=0) == step
    assert (await shop.messages())[-1] == "The job was cancelled"
    assert not (shop.parts.workdirs / "ftjob-a1").exists()


@pytest.mark.parametrize("step", [1, 4, 5])
async def test_a_paused_job_stops_within_a_step_and_resumes_to_the_same_revision(
    shop: Workshop, step: int
) -> None:
    await shop.submit()
    shop.gate.closed_at = step
    async with shop.working() as runtime:
        await shop.at_step(step)
        await shop.ask(Action.PAUSE)
        await shop.heartbeat()
        shop.gate.opened.set()
        paused = await shop.until(lambda job: job.status == "paused")
        assert (paused.lease_owner, paused.attempts, paused.pause_requested) == (None, 0, False)
        assert await shop.metrics("train_loss") == list(range(1, step + 1))
        assert not runtime.done()
        await shop.ask(Action.RESUME)
        job = await shop.ended()
        await shop.submit("ftjob-calm", adapter="calm")
        calm = await shop.ended("ftjob-calm")
    assert calm.fine_tuned_model is not None
    assert job.fine_tuned_model == calm.fine_tuned_model.replace(":calm:", ":support:")
    assert await shop.metrics("train_loss") == list(range(1, 9))
    told = await shop.messages()
    at = told.index("A pause was requested; training stops at its next step")
    rest = [message for message in told[at:] if "Step" not in message and "step 4" not in message]
    assert rest[:4] == [
        "A pause was requested; training stops at its next step",
        "The job was paused",
        "The job was resumed, and is queued again",
        "Resumed after an interruption",
    ]


@pytest.mark.parametrize(
    ("step", "then", "status", "trained"),
    [
        pytest.param(5, Action.RESUME, "succeeded", 8, id="called off too late for the trainer"),
        pytest.param(8, None, "succeeded", 8, id="nothing left to do"),
        pytest.param(2, Action.CANCEL, "cancelled", 2, id="cancelled"),
    ],
)
async def test_a_pause_that_something_overtakes_costs_nothing(
    shop: Workshop, step: int, then: Action | None, status: str, trained: int
) -> None:
    await shop.submit()
    shop.gate.closed_at = step
    async with shop.working():
        await shop.at_step(step)
        await shop.ask(Action.PAUSE)
        await shop.heartbeat()
        if then is not None:
            await shop.ask(then)
        shop.gate.opened.set()
        job = await shop.ended()
    assert job.status == status
    assert await shop.metrics("train_loss") == list(range(1, trained + 1))


async def test_a_tenant_that_holds_every_place_makes_room_for_another(shop: Workshop) -> None:
    """Within a step: the newcomer does not wait for a whole job."""
    at_work = threading.Barrier(2, timeout=20)
    shop.files["file-g"] = examples(20, 50)
    async with shop.database.write() as session:
        session.add(_file("file-g", "globex"))

    def before(step: int) -> None:
        if step == 1 and not shop.gate.opened.is_set():
            at_work.wait()
            shop.gate.reached.set()
            assert shop.gate.opened.wait(20)

    for name in ("ftjob-a1", "ftjob-a2", "ftjob-a3"):
        await shop.submit(name, adapter=name)
    async with shop.working(at_once=2, trainers={"supervised": FakeTrainer(3, before)}):
        await asyncio.to_thread(shop.gate.reached.wait, 20)
        await shop.submit("ftjob-g1", "globex", training_file="file-g")
        await shop.heartbeat("ftjob-a2")
        await shop.heartbeat("ftjob-a2")
        shop.gate.opened.set()
        for name in ("ftjob-g1", "ftjob-a1", "ftjob-a2", "ftjob-a3"):
            assert (await shop.ended(name)).status == "succeeded"
        assert await shop.metrics("train_loss", "ftjob-a2") == list(range(1, 9))
    made = "Training made room for another tenant's job and will resume"
    assert made in await shop.messages("ftjob-a2")
    begun = {name: (await shop.events(name))[0].seq for name in ("ftjob-g1", "ftjob-a3")}
    assert begun["ftjob-g1"] < begun["ftjob-a3"]


async def test_a_fault_of_the_task_fails_the_job_with_its_reason(shop: Workshop) -> None:
    await shop.submit()
    shop.gate.faults[3] = TrainingError("The loss is not finite", "non_finite_loss", "learning")
    async with shop.working():
        job = await shop.ended()
    assert job.status == "failed"
    assert (job.error_code, job.error_message, job.error_param) == (
        "non_finite_loss",
        "The loss is not finite",
        "learning",
    )
    assert (await shop.messages())[-1] == "The job failed: The loss is not finite"
    assert not (shop.parts.workdirs / "ftjob-a1").exists()


async def test_a_missing_file_fails_the_job_and_names_the_field(shop: Workshop) -> None:
    await shop.submit(training_file="file-9")
    await shop.submit("ftjob-a2", validation_file="file-9")
    async with shop.working():
        first, second = await shop.ended(), await shop.ended("ftjob-a2")
    assert (first.error_code, first.error_param) == ("not_found", "training_file")
    assert (second.error_code, second.error_param) == ("not_found", "validation_file")


async def test_examples_that_teach_nothing_fail_the_job(shop: Workshop) -> None:
    shop.files["file-1"] = [chat("Say", "Nothing", weight=0)] * 20
    await shop.submit()
    async with shop.working():
        job = await shop.ended()
    assert (job.error_code, job.error_param) == ("no_trainable_examples", "training_file")


async def test_a_fault_of_ours_ends_the_runtime_and_frees_the_job_for_the_next(
    shop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.submit()
    shop.gate.faults[7] = Interrupted("a secret of the machine")
    async with shop.working() as runtime:
        with pytest.raises(Interrupted):
            await asyncio.wait_for(runtime, 20)
    job = await shop.job()
    assert job.status == "running"
    assert job.lease_owner is None
    assert "secret" not in " ".join(await shop.messages())
    async with shop.working(owner="training-2"):
        job = await shop.ended()
    assert job.status == "succeeded"
    # It went on from its checkpoint, and what was told before is not told again.
    assert await shop.metrics("train_loss") == list(range(1, 9))
    assert await shop.metrics("valid_loss") == [0, 4, 8]
    messages = await shop.messages()
    assert len(set(messages)) == len(messages)
    assert "Resumed after an interruption" in messages


async def test_a_fault_of_ours_is_tried_again_at_once_where_the_device_still_computes(
    shop: Workshop,
) -> None:
    await shop.submit()
    shop.gate.faults[7] = Interrupted("a secret of the machine")
    async with shop.working(healthy=lambda: True) as runtime:
        job = await shop.ended()
        assert not runtime.done()
    assert job.status == "succeeded"
    assert await shop.metrics("train_loss") == list(range(1, 9))
    assert "Resumed after an interruption" in await shop.messages()


async def test_jobs_are_worked_on_side_by_side(shop: Workshop) -> None:
    both = threading.Barrier(2, timeout=20)

    class Meeting(FakeTrainer):
        def train(self, *given: Any) -> Any:
            both.wait()
            return super().train(*given)

    for name in ("ftjob-a1", "ftjob-a2", "ftjob-a3", "ftjob-a4"):
        await shop.submit(name, adapter=name)
    async with shop.working(at_once=2, trainers={"supervised": Meeting(3)}):
        ended = [await shop.ended(f"ftjob-a{number}") for number in range(1, 5)]
    assert [job.status for job in ended] == ["succeeded"] * 4


async def test_a_job_for_a_base_that_is_held_otherwise_fails_and_says_so(shop: Workshop) -> None:
    spec = msgspec.structs.replace(SPEC, quantization="none")
    await shop.submit(spec=msgspec.to_builtins(spec))
    async with shop.working():
        job = await shop.ended()
    assert (job.status, job.error_param) == ("failed", "method.supervised.quantization")
    assert "'nf4'" in (job.error_message or "")


async def test_a_job_that_always_breaks_its_runtime_is_given_up(shop: Workshop) -> None:
    await shop.submit()
    for _ in range(MAX_ATTEMPTS):
        shop.gate.faults[1] = Interrupted()
        async with shop.working() as runtime:
            with pytest.raises(Interrupted):
                await asyncio.wait_for(runtime, 20)
    async with shop.working():
        job = await shop.ended()
    assert (job.status, job.error_code) == ("failed", "runtime_crashed")


async def test_a_shutdown_gives_the_job_back_and_the_next_runtime_goes_on(shop: Workshop) -> None:
    await shop.submit()
    shop.gate.closed_at = 5
    async with shop.working() as runtime:
        await shop.at_step(5)
    assert runtime.exception() is None
    job = await shop.job()
    assert (job.status, job.attempts, job.lease_owner) == ("queued", 0, None)
    assert await shop.metrics("train_loss") == [1, 2, 3, 4, 5]
    shop.gate.closed_at = None
    async with shop.working(owner="training-2"):
        job = await shop.ended()
    assert job.status == "succeeded"
    assert await shop.metrics("train_loss") == list(range(1, 9))


async def test_interrupted_or_not_the_result_is_the_same_revision(shop: Workshop) -> None:
    await shop.submit(adapter="calm")
    async with shop.working():
        calm = await shop.ended()
    await shop.submit("ftjob-a2", adapter="stormy")
    for step in (2, 6):
        shop.gate.faults[step] = Interrupted()
        async with shop.working() as runtime:
            with pytest.raises(Interrupted):
                await asyncio.wait_for(runtime, 20)
    async with shop.working():
        stormy = await shop.ended("ftjob-a2")
    assert calm.fine_tuned_model is not None
    assert stormy.fine_tuned_model == calm.fine_tuned_model.replace(":calm:", ":stormy:")
    assert len(await shop.checkpoints("ftjob-a2")) == 2


async def test_a_runtime_that_lost_its_lease_writes_nothing_more(shop: Workshop) -> None:
    await shop.submit()
    shop.gate.closed_at = 4
    async with shop.working() as runtime:
        await shop.at_step(4)
        async with shop.database.write() as session:
            jobs = JobRepository(session)
            await jobs.release_owner("training-1")
            taken = await jobs.claim("another", 60, Quotas())
            assert taken is not None
        before = await shop.messages()
        shop.gate.opened.set()
        # The runtime goes on to look for other jobs.
        await shop.submit("ftjob-g1", "globex", training_file="file-9")
        await shop.ended("ftjob-g1")
        assert not runtime.done()
    job = await shop.job()
    assert (job.status, job.lease_owner) == ("running", "another")
    assert await shop.messages() == before
    assert await shop.models() == []
    assert await shop.checkpoints() == []


async def test_a_publish_whose_rows_were_lost_is_made_good_by_the_retry(shop: Workshop) -> None:
    await shop.submit()

    class Dying(FilesystemAdapterStore):
        def publish(self, *arguments: Any) -> Any:
            super().publish(*arguments)
            raise Interrupted

    dying = Dying(shop.parts.workdirs.parent / "adapters")
    async with shop.working(store=dying) as runtime:
        with pytest.raises(Interrupted):
            await asyncio.wait_for(runtime, 20)
    assert await shop.models() == []
    assert len(list(shop.store.list("acme"))) == 1
    async with shop.working():
        job = await shop.ended()
    assert job.status == "succeeded"
    assert len(list(shop.store.list("acme"))) == 2
    assert [row.step_number for row in await shop.checkpoints()] == [4, 8]


async def test_what_jobs_without_a_runtime_left_is_removed_at_the_start(shop: Workshop) -> None:
    await shop.submit("ftjob-over", status="cancelled")
    await shop.submit("ftjob-paused", status="paused")
    for name in ("ftjob-over", "ftjob-paused", "ftjob-unknown"):
        (shop.parts.workdirs / name).mkdir(parents=True)
    await shop.submit()
    async with shop.working():
        await shop.ended()
    assert [folder.name for folder in shop.parts.workdirs.iterdir()] == ["ftjob-paused"]


async def test_jobs_are_trained_one_after_the_other(shop: Workshop) -> None:
    shop.gate.closed_at = 2
    await shop.submit("ftjob-a1")
    await shop.submit("ftjob-a2", adapter="style")
    async with shop.working():
        await shop.at_step(2)
        assert [(await shop.job(name)).status for name in ("ftjob-a1", "ftjob-a2")] == [
            "running",
            "queued",
        ]
        shop.gate.opened.set()
        assert (await shop.ended("ftjob-a1")).status == "succeeded"
        assert (await shop.ended("ftjob-a2")).status == "succeeded"
