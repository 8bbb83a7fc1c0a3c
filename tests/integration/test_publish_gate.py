"""What the publish gate rejects: the job fails, the files stay, and nobody is served by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from adapters_store import RevisionRef
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService
from service.database import Database
from service.database.models import RevisionRow
from service.errors import EngineUnavailable
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.ledger import Ledger
from service.runtime.publishing import Metrics, Publisher
from service.serving.gate import Rules
from service.training.trainer import TrainingOutcome
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import ADAPTERS, ALIASES, BASE, NEW, A, B, error_of, naming, record
from tests.integration.test_training_jobs import Workshop
from tests.integration.test_training_jobs import shop as shop

REPORT = {
    "passed": False,
    "reason": "held_out_loss: the loss is worse",
    "checks": [
        {
            "name": "held_out_loss",
            "outcome": "failed",
            "message": "the loss is worse",
            "figures": {"loss": 3.0, "loss_of_base": 1.0, "standard_error": None},
        }
    ],
}
OVERRIDE = f"/v1/admin/tenants/acme/adapters/support/revisions/{B[:8]}/override"
NAME = f"ft:{BASE}:acme:support:{B[:8]}"


class Skewed(FakeEngine):
    """Computes some adapters otherwise than their trainer did."""

    def __init__(self, shop: Workshop, steps: set[int]) -> None:
        super().__init__(shop.store)
        self.store = shop.store
        self.steps = steps
        self.examined: list[int | None] = []
        self.base_scored = 0

    async def score(
        self, revision: RevisionRef | None, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        scores = await super().score(revision, prompts)
        if revision is None:
            self.base_scored += 1
            return scores
        step = self.store.open(revision).manifest.origin.step
        self.examined.append(step)
        return [[v - 1 * (step in self.steps) for v in each] for each in scores]


async def rows(database: Database) -> list[RevisionRow]:
    async with database.read() as session:
        return list(await session.scalars(select(RevisionRow).order_by(RevisionRow.seq)))


def gated(engine: FakeEngine) -> Gatekeeper:
    return Gatekeeper(engine, Rules(), delays=[0.0])


async def test_a_job_whose_result_is_rejected_fails_and_keeps_it(shop: Workshop) -> None:
    await shop.submit(publish_alias="production")
    async with shop.working(gate=gated(Skewed(shop, {8}))):
        job = await shop.ended()
    assert (job.status, job.error_code, job.fine_tuned_model) == (
        "failed",
        "publish_gate_rejected",
        None,
    )
    reason = "agrees_with_trainer: the engine's log-probabilities differ from the trainer's by 1 "
    assert job.error_message is not None
    assert job.error_message.startswith(f"The publish gate rejected the adapter: {reason}")
    assert job.trained_tokens
    told = await shop.events()
    assert (told[-1].level, told[-1].message) == ("error", f"The job failed: {job.error_message}")
    assert await shop.aliases("support") == []
    # The last epoch's checkpoint has the same content.
    assert [model.name[-12:] for model, _ in await shop.models()] == [":ckpt-step-4"]
    good, bad = await rows(shop.database)
    assert (good.status, bad.status) == ("published", "rejected")
    assert bad.gate is not None
    assert (bad.gate["passed"], bad.gate["step"], bad.job_id) == (False, None, "ftjob-a1")
    shop.store.open(RevisionRef("acme", "support", bad.digest))


async def test_a_rejected_checkpoint_is_told_and_the_job_goes_on(shop: Workshop) -> None:
    await shop.submit()
    engine = Skewed(shop, {4})
    async with shop.working(gate=gated(engine)):
        job = await shop.ended()
    assert job.status == "succeeded"
    # The result is the last epoch's over again, and is not examined over again.
    assert engine.examined == [4, 8]
    assert engine.base_scored == 1
    assert [row.step_number for row in await shop.checkpoints()] == [8]
    [told] = [event for event in await shop.events() if "rejected" in event.message]
    assert told.level == "warn"
    assert told.message.startswith(
        "Checkpoint at step 4 was rejected by the publish gate and cannot be called: "
    )
    first, second = await rows(shop.database)
    assert (first.status, second.status) == ("rejected", "published")
    assert first.gate is not None
    assert first.gate["step"] == 4
    assert {revision.digest for _, revision in await shop.models()} == {second.digest}


@pytest.mark.parametrize("after", ["publish", "examine", "record", "reject"])
@pytest.mark.parametrize("rejected", [True, False])
async def test_whoever_dies_between_two_steps_is_mended_by_a_retry(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, after: str, rejected: bool
) -> None:
    died = []

    def deadly(step: Any) -> Any:
        async def dies_once(*given: Any) -> Any:
            result = await step(*given)
            if not died:
                died.append(after)
                raise OSError("killed")
            return result

        def dies_once_in_a_thread(*given: Any) -> Any:
            result = step(*given)
            if not died:
                died.append(after)
                raise OSError("killed")
            return result

        return dies_once_in_a_thread if after == "publish" else dies_once

    monkeypatch.setattr(Publisher, after, deadly(getattr(Publisher, after)))
    await shop.submit()
    engine = Skewed(shop, {4, 8} if rejected else set())
    async with shop.working(gate=gated(engine), healthy=lambda: True):
        job = await shop.ended()
    assert bool(died) == (after not in ("reject", "record") or rejected == (after == "reject"))
    assert job.status == ("failed" if rejected else "succeeded")
    found = await rows(shop.database)
    assert [row.status for row in found] == ["rejected" if rejected else "published"] * 2
    names = [model.name for model, _ in await shop.models()]
    assert len(names) == len(set(names)) == (0 if rejected else 3)
    kept = [ref.digest for ref in shop.store.list("acme")]
    assert sorted(kept) == sorted(row.digest for row in found)
    told = [message for message in await shop.messages() if "rejected by" in message]
    assert len(told) == (2 if rejected else 0)


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_result_is_published_again_only_where_its_checkpoint_was_deleted(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    steps: list[int] = []
    publish, succeed = Publisher.publish, Ledger.succeed

    def noted(publisher: Publisher, adapter: Path, step: int, metrics: Metrics) -> RevisionRef:
        steps.append(step)
        return publish(publisher, adapter, step, metrics)

    async def after_a_delete(book: Ledger, outcome: TrainingOutcome) -> str:
        if deleted:
            [last] = [name.name for name, _ in await shop.models() if name.step == 8]
            await ModelService(shop.database, shop.store, shop.parts.base).delete("acme", last)
            assert len(list(shop.store.list("acme"))) == 1
        return await succeed(book, outcome)

    monkeypatch.setattr(Publisher, "publish", noted)
    monkeypatch.setattr(Ledger, "succeed", after_a_delete)
    await shop.submit()
    async with shop.working(gate=gated(Skewed(shop, set()))):
        job = await shop.ended()
    assert job.status == "succeeded"
    assert steps == ([4, 8, 8] if deleted else [4, 8])
    [result] = [row for name, row in await shop.models() if name.name == job.fine_tuned_model]
    assert shop.store.open(RevisionRef("acme", "support", result.digest)).manifest.origin.step == 8


async def test_an_engine_that_never_has_time_gives_the_job_back(shop: Workshop) -> None:
    class Busy(FakeEngine):
        async def score(self, *_: Any) -> list[list[float]]:
            raise EngineUnavailable("too many requests are waiting")

    await shop.submit()
    async with shop.working(gate=gated(Busy(shop.store)), healthy=lambda: True):
        job = await shop.ended()
    assert (job.status, job.error_code) == ("failed", "runtime_crashed")
    assert await rows(shop.database) == []


@pytest.fixture
async def rejected(database: Database, acme: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client whose adapter has a good revision and then one that was rejected."""
    await record(database, A)
    async with database.write() as session:
        await RevisionRepository(session).reject(
            "acme", "support", B, format="chat", job_id="ftjob-2", step=None, size=0, gate=REPORT
        )
    return acme


async def test_a_rejected_revision_is_shown_with_what_the_gate_found(
    rejected: httpx.AsyncClient,
) -> None:
    listed = (await rejected.get(f"{ADAPTERS}/support/revisions")).json()["data"]
    assert [(one["status"], len(one["models"])) for one in listed] == [
        ("rejected", 0),
        ("published", 1),
    ]
    assert listed[0]["gate"] == REPORT
    assert (listed[0]["override"], listed[1]["gate"]) == (None, None)
    shown = await rejected.get(f"{ADAPTERS}/support/revisions/{B[:8]}")
    # What it was trained and is served with is told of one at a time; here there are no files.
    assert shown.json() == listed[0] | {"parity": None}
    newest = (await rejected.get(f"{ADAPTERS}/support")).json()["newest"]
    assert newest["revision"] == A


@pytest.mark.parametrize("model", [NAME, f"support@{B[:8]}", f"support@{B}"])
async def test_a_rejected_revision_cannot_be_called(
    rejected: httpx.AsyncClient, model: str
) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    error = error_of(await rejected.post("/v1/chat/completions", json=body), 409)
    assert (error["code"], error["param"]) == ("revision_rejected", "model")
    assert f"support@{B[:8]}" in error["message"]
    assert "the loss is worse" in error["message"]
    error_of(await rejected.get(f"/v1/models/{model}"), 409)
    listed = (await rejected.get("/v1/models")).json()["data"]
    assert [one["id"] for one in listed] == [BASE, f"ft:{BASE}:acme:support:{A[:8]}"]


async def test_an_adapters_name_stands_for_its_newest_good_revision(
    rejected: httpx.AsyncClient, database: Database
) -> None:
    shown = (await rejected.get("/v1/models/support")).json()
    assert shown["id"].endswith(A[:8])
    async with database.write() as session:
        await RevisionRepository(session).reject(
            "acme", "other", B, format="chat", job_id="ftjob-3", step=None, size=0, gate=REPORT
        )
    assert error_of(await rejected.get("/v1/models/other"), 409)["code"] == "revision_rejected"


async def test_anothers_rejected_revision_is_as_unknown_as_none(
    rejected: httpx.AsyncClient, globex: httpx.AsyncClient
) -> None:
    del rejected
    for model in (NAME, f"support@{B[:8]}", "support"):
        assert error_of(await globex.get(f"/v1/models/{model}"), 404)["code"] == "model_not_found"


async def test_no_alias_names_a_rejected_revision(rejected: httpx.AsyncClient) -> None:
    answer = await rejected.put(f"{ALIASES}/production", json=naming(A, B, a=95, b=5), headers=NEW)
    error = error_of(answer, 409)
    assert (error["code"], error["param"]) == ("revision_rejected", "targets[1].revision")
    assert answer.headers["x-should-retry"] == "false"


async def test_an_operator_overrides_the_gate_for_a_reason_that_is_recorded(
    rejected: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    answer = await admin.post(OVERRIDE, json={"reason": "the held-out file was wrong"})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert shown["status"] == "rejected"
    assert shown["gate"] == REPORT
    assert shown["models"] == [{"id": NAME, "job_id": "ftjob-2", "step": None}]
    override = shown["override"]
    assert (override["reason"], override["key_id"]) == ("the held-out file was wrong", None)
    assert override["overridden_at"] > 0
    assert (await rejected.get(f"{ADAPTERS}/support/revisions/{B[:8]}")).json() == shown
    assert (await rejected.get("/v1/models/support")).json()["id"] == NAME
    moved = await rejected.put(f"{ALIASES}/production", json=naming(B), headers=NEW)
    assert moved.status_code == 200
    # The first reason stays.
    again = await admin.post(OVERRIDE, json={"reason": "another"})
    assert again.json()["override"] == override


async def test_only_the_operator_overrides_and_only_what_was_rejected(
    rejected: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    body = {"reason": "please"}
    error_of(await rejected.post(OVERRIDE, json=body), 403)
    error_of(await admin.post(OVERRIDE, json={}), 400)
    error_of(await admin.post(OVERRIDE, json={"reason": ""}), 400)
    good = error_of(await admin.post(OVERRIDE.replace(B[:8], A[:8]), json=body), 409)
    assert good["code"] == "revision_not_rejected"
    for path in (OVERRIDE.replace(B[:8], "c" * 8), OVERRIDE.replace("acme", "globex")):
        assert error_of(await admin.post(path, json=body), 404)["code"] == "revision_not_found"


async def test_a_content_that_passed_before_stays_callable(
    database: Database, acme: httpx.AsyncClient
) -> None:
    del acme
    name = await record(database, A)
    async with database.write() as session:
        revisions = RevisionRepository(session)
        row = await revisions.reject(
            "acme", "support", A, format="chat", job_id="ftjob-9", step=None, size=0, gate=REPORT
        )
        assert (row.status, row.gate) == ("published", None)
        found = await revisions.find("acme", name)
    assert found is not None
