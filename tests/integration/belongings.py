"""One of everything that a tenant can have, by the names that operations give to it."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from adapters_store import AdapterStore
from service.adapters.names import SHORTEST_REV
from service.adapters.repository import RevisionRepository
from service.database import Database
from service.database.models import (
    AdapterRow,
    AuditRow,
    DeliveryRow,
    ErasureRow,
    JobCheckpointRow,
    RevisionRow,
    TenantRow,
    WebhookRow,
)
from service.wire import now
from tests.builders import a_peft_folder, an_origin
from tests.integration.aliasing import NEW, at, naming
from tests.integration.importing import HIDDEN, LAYERS, TARGETS

BASE = "lorehouse-tiny"
ROW = (
    b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}\n'
)
ADMIN = "/v1/admin/tenants"

Names = dict[str, list[str]]
"""What a tenant's things are called: several names of one thing, where it has them."""

CURSORS = {
    "listAdapters": "adapter_id",
    "listAudit": "audit_id",
    "listOwnAudit": "audit_id",
    "listMerges": "merge",
    "listAliases": "alias",
    "listAliasHistory": "version",
    "listRevisions": "revision_id",
    "listErasures": "erasure_id",
    "listFiles": "file_id",
    "listFineTuningJobs": "job_id",
    "listFineTuningJobCheckpoints": "checkpoint_id",
    "listFineTuningJobEvents": "event_id",
    "listWebhooks": "webhook",
    "listWebhookDeliveries": "delivery",
}
"""What each list's `after` names."""
VERSION = "2"
"""Versions of aliases count up for everybody alike."""
SAME = {
    "training_file": "file_id",
    "validation_file": "file_id",
    "base_adapter": "model",
    "part_ids": "part_id",
    "revision": "rev",
}
"""Fields that name what has another name elsewhere."""


class Belongings:
    """Makes things of tenants, by requests and as jobs leave them."""

    def __init__(
        self, admin: httpx.AsyncClient, database: Database, store: AdapterStore, folder: Path
    ) -> None:
        self._admin, self._database, self._store = admin, database, store
        self._folder = folder
        self._numbers = itertools.count(1)

    async def of(self, tenant: str, client: httpx.AsyncClient) -> Names:
        """Make one more of everything."""
        number = next(self._numbers)
        adapter = f"{tenant}-adapter-{number}"
        names = await self._published(tenant, adapter, number)
        names |= await _aliased(client, adapter, names["rev"][0])
        names |= await _uploaded(client)
        names |= await self._trained(tenant, client, names["file_id"][0])
        names |= await self._told(tenant, number)
        merge = await _post(client, f"/v1/adapters/{adapter}/revisions/{names['rev'][0]}/merge")
        key = await _post(self._admin, f"{ADMIN}/{tenant}/keys", name="more")
        names |= {"merge": [merge["id"]], "key_id": [key["id"]], "tenant": [tenant]}
        names |= {"audit_id": [await self._audited(tenant)]}
        return _called(names | {"erasure_id": [await self._erased(tenant, number)]})

    async def rows(self, tenant: str) -> list[Any]:
        """Read every row that the tenant has."""
        found: list[Any] = []
        async with self._database.read() as session:
            for table in TenantRow.metadata.sorted_tables:
                if "tenant_id" in table.c:
                    # When a key was last used is written at some time after.
                    columns = [column for column in table.c if column.name != "last_used_at"]
                    mine = select(*columns).where(table.c.tenant_id == tenant)
                    found += [tuple(row) for row in await session.execute(mine)]
        return found

    async def _published(self, tenant: str, adapter: str, number: int) -> Names:
        """Have a revision, with its files."""
        shape = {"targets": TARGETS, "hidden": HIDDEN, "layers": LAYERS}
        peft = a_peft_folder(self._folder / adapter, rank=1, seed=number, **shape)  # type: ignore[arg-type]
        digest = self._store.publish(tenant, adapter, peft, an_origin()).ref.digest
        async with self._database.write() as session:
            model = await RevisionRepository(session).record(
                tenant, adapter, digest, base_name=BASE, format="chat", job_id=None, size=0
            )
            line = await session.scalar(select(AdapterRow.id).where(AdapterRow.name == adapter))
            named = select(RevisionRow.id).where(RevisionRow.adapter == adapter)
            revision = await session.scalar(named)
        rev = digest[:SHORTEST_REV]
        return {
            "adapter": [adapter],
            "adapter_id": [str(line)],
            "revision_id": [str(revision)],
            "rev": [rev, digest],
            "model": [model, adapter, f"{adapter}@{rev}", f"{adapter}@{digest}"],
        }

    async def _trained(self, tenant: str, client: httpx.AsyncClient, file_id: str) -> Names:
        """Have a job that waits, and a checkpoint of it."""
        jobs = "/v1/fine_tuning/jobs"
        job = await _post(client, jobs, model=BASE, training_file=file_id)
        events = (await client.get(f"{jobs}/{job['id']}/events")).json()
        checkpoint = JobCheckpointRow(
            id=job["id"].replace("ftjob", "ftckpt"),
            tenant_id=tenant,
            job_id=job["id"],
            created_at=now(),
            step_number=1,
            model_name=job["adapter"],
            metrics={"step": 1},
        )
        async with self._database.write() as session:
            session.add(checkpoint)
        return {
            "job_id": [job["id"]],
            "event_id": [events["data"][0]["id"]],
            "checkpoint_id": [checkpoint.id],
        }

    async def _told(self, tenant: str, number: int) -> Names:
        """Have a webhook, and something that was told to it."""
        made = {"tenant_id": tenant, "created_at": now()}
        url = "https://example.com/"
        webhook = WebhookRow(id=f"wh_{number}", url=url, events=["fine_tuning.job.failed"], **made)
        delivery = DeliveryRow(
            id=f"whd_{number}",
            webhook_id=webhook.id,
            event_id=f"evt_{number}",
            type="fine_tuning.job.failed",
            payload={},
            status="delivered",
            **made,
        )
        async with self._database.write() as session:
            session.add(webhook)
            await session.flush()
            session.add(delivery)
        return {"webhook": [webhook.id], "delivery": [delivery.id]}

    async def _audited(self, tenant: str) -> str:
        """Find a line of what was done until here."""
        mine = select(AuditRow.id).where(AuditRow.tenant_id == tenant)
        async with self._database.read() as session:
            return str(await session.scalar(mine.order_by(AuditRow.seq.desc())))

    async def _erased(self, tenant: str, number: int) -> str:
        row = ErasureRow(
            id=f"erasure_{number}", tenant_id=tenant, status="done", report={}, created_at=now()
        )
        async with self._database.write() as session:
            session.add(row)
        return row.id


def nothing() -> Names:
    """Names, as long and as well-formed, of what nobody has."""
    digest = hashlib.sha256(b"nobody's").hexdigest()
    rev, adapter = digest[:SHORTEST_REV], "nothing"
    model = f"ft:{BASE}:nobody:{adapter}:{rev}"
    spelled = [model, adapter, f"{adapter}@{rev}", f"{adapter}@{digest}", f"{adapter}@to-{adapter}"]
    names = {"tenant": ["nobody"], "adapter": [adapter], "rev": [rev, digest], "model": spelled}
    names |= {"alias": [f"to-{adapter}"], "version": [VERSION]}
    ids = "file upload part job event checkpoint key adapter revision erasure audit"
    names |= {kind: [f"{kind}-nothing"] for kind in ("merge", "webhook", "delivery")}
    return _called(names | {f"{kind}_id": ["nothing"] for kind in ids.split()})


async def _aliased(client: httpx.AsyncClient, adapter: str, rev: str) -> Names:
    """Have an alias that has moved once, and can be rolled back."""
    url = f"/v1/adapters/{adapter}/aliases/to-{adapter}"
    for seen in (NEW, at(1)):
        answer = await client.put(url, json=naming(rev), headers=seen)
        assert answer.status_code == 200, answer.text
    return {"alias": [f"to-{adapter}"], "version": [VERSION]}


async def _uploaded(client: httpx.AsyncClient) -> Names:
    form = {"files": {"file": ("rows.jsonl", ROW * 10)}, "data": {"purpose": "fine-tune"}}
    file = await client.post("/v1/files", **form)  # type: ignore[arg-type]
    announced = {"filename": "a", "purpose": "user_data", "bytes": 1, "mime_type": "text/plain"}
    upload = (await _post(client, "/v1/uploads", **announced))["id"]
    part = await client.post(f"/v1/uploads/{upload}/parts", files={"data": b"x"})
    return {
        "file_id": [file.json()["id"]],
        "upload_id": [upload],
        "part_id": [part.json()["id"]],
    }


async def _post(client: httpx.AsyncClient, url: str, /, **body: Any) -> dict[str, Any]:
    answer = await client.post(url, json=body)
    assert answer.is_success, answer.text
    made: dict[str, Any] = answer.json()
    return made


def _called(names: Names) -> Names:
    """Add the names that some operations have for them."""
    names["model"] = [*names["model"], f"{names['adapter'][0]}@{names['alias'][0]}"]
    return names | {name: names[other] for name, other in SAME.items()}
