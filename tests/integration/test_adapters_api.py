"""`/v1/adapters`: what a tenant has, and where it came from."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from adapters_store import AdapterStore
from service.database import Database
from tests.builders import a_peft_folder, an_origin
from tests.integration.aliasing import ADAPTERS, NEW, A, B, C, error_of, naming, put, record

SUPPORT = f"{ADAPTERS}/support"


class Line:
    """Publishes revisions that descend from each other, files and rows."""

    def __init__(self, database: Database, store: AdapterStore, folder: Path) -> None:
        self.database, self.store, self.folder = database, store, folder

    async def publish(
        self, seed: int, *parents: str, tenant: str = "acme", adapter: str = "support", **more: Any
    ) -> tuple[str, str]:
        """Make one; its name and digest."""
        folder = a_peft_folder(self.folder / str(seed), seed=seed)
        origin = an_origin(parents=list(parents), job_id=f"ftjob-{seed}", **more)
        digest = self.store.publish(tenant, adapter, folder, origin).ref.digest
        name = await record(
            self.database, digest, tenant=tenant, adapter=adapter, job_id=f"ftjob-{seed}"
        )
        return name, digest


@pytest.fixture
async def line(
    acme: httpx.AsyncClient,
    globex: httpx.AsyncClient,
    database: Database,
    store: AdapterStore,
    tmp_path: Path,
) -> Line:
    return Line(database, store, tmp_path / "made")


async def lineage(client: httpx.AsyncClient, rev: str) -> list[dict[str, Any]]:
    answer = await client.get(f"{SUPPORT}/revisions/{rev}/lineage")
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_adapters_are_listed_newest_first_with_newest_revision_and_aliases(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database
) -> None:
    assert (await acme.get(ADAPTERS)).json()["data"] == []
    await record(database, A)
    newest = await record(database, B)
    await record(database, C, step=5)
    await record(database, A, adapter="sales", step=5)
    theirs = await record(database, C, tenant="globex")
    alias = await put(acme, "production", naming(A), NEW)
    sales, support = (await acme.get(ADAPTERS)).json()["data"]
    assert (sales["name"], sales["newest"], sales["aliases"]) == ("sales", None, [])
    assert (support["object"], support["name"]) == ("adapter", "support")
    assert support["newest"] == {"revision": B, "model": newest}
    assert support["aliases"] == [alias]
    assert (await acme.get(SUPPORT)).json() == support
    [other] = (await globex.get(ADAPTERS)).json()["data"]
    assert (other["newest"], other["aliases"]) == ({"revision": C, "model": theirs}, [])


async def test_adapters_come_in_pages(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, database: Database
) -> None:
    for adapter in ("a", "b", "c"):
        await record(database, A, adapter=adapter)
    await record(database, A, tenant="globex")
    first = (await acme.get(ADAPTERS, params={"limit": 2})).json()
    assert [one["name"] for one in first["data"]] == ["c", "b"]
    assert first["has_more"] is True
    assert first["last_id"] == first["data"][-1]["id"]
    rest = (await acme.get(ADAPTERS, params={"after": first["last_id"]})).json()
    assert ([one["name"] for one in rest["data"]], rest["has_more"]) == (["a"], False)
    [theirs] = (await globex.get(ADAPTERS)).json()["data"]
    for after in (theirs["id"], "adp_none"):
        answer = await acme.get(ADAPTERS, params={"after": after})
        assert error_of(answer, 400)["param"] == "after"


async def test_revisions_are_listed_newest_first_with_their_names(
    acme: httpx.AsyncClient, database: Database
) -> None:
    checkpoint = await record(database, A, step=4)
    other = await record(database, B, step=8)
    result = await record(database, B, job_id="ftjob-2")
    first = (await acme.get(f"{SUPPORT}/revisions", params={"limit": 1})).json()
    rest = (await acme.get(f"{SUPPORT}/revisions", params={"after": first["last_id"]})).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    [newest], [oldest] = first["data"], rest["data"]
    assert newest | {"id": "", "created_at": 0} == {
        "id": "",
        "object": "adapter.revision",
        "adapter": "support",
        "digest": B,
        "rev": "bbbbbbbb",
        "models": [
            {"id": other, "job_id": "ftjob-1", "step": 8},
            {"id": result, "job_id": "ftjob-2", "step": None},
        ],
        "created_at": 0,
        "job_id": "ftjob-1",
        "step": None,
        "format": "chat",
        "status": "published",
        "gate": None,
        "override": None,
    }
    assert [model["id"] for model in oldest["models"]] == [checkpoint]
    assert (oldest["digest"], oldest["step"]) == (A, 4)
    for rev in ("bbbbbbbb", B):
        shown = (await acme.get(f"{SUPPORT}/revisions/{rev}")).json()
        # Its files are nowhere in this test, so that there is nothing to compare.
        assert shown == newest | {"parity": None}


async def test_anothers_adapter_and_revision_are_as_unknown_as_none(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, line: Line
) -> None:
    _, digest = await line.publish(1)
    for path in ("", "/revisions", f"/revisions/{digest}", f"/revisions/{digest}/lineage"):
        assert (await acme.get(SUPPORT + path)).status_code == 200
        foreign = await globex.get(SUPPORT + path)
        none = await globex.get(f"{ADAPTERS}/nothing{path}")
        assert foreign.status_code == none.status_code == 404
        assert foreign.text.replace("support", "nothing") == none.text
    unknown = await acme.get(f"{SUPPORT}/revisions/{A}")
    assert error_of(unknown, 404)["code"] == "revision_not_found"


async def test_lineage_walks_back_to_jobs_datasets_and_parents(
    acme: httpx.AsyncClient, line: Line
) -> None:
    _, root = await line.publish(1, adapter="sales", dataset_digests=["d1"])
    _, middle = await line.publish(2, root, dataset_digests=["d2", "d3"])
    _, last = await line.publish(3, middle, root, dataset_digests=["d4"], metrics={"loss": 0.5})
    own, parent, grandparent = await lineage(acme, last)
    assert own | {"origin": {}} == {
        "digest": last,
        "adapter": "support",
        "state": "present",
        "origin": {},
    }
    assert own["origin"]["parents"] == [middle, root]
    assert own["origin"]["metrics"] == {"loss": 0.5}
    assert own["origin"] | {"created_at": 0} == {"created_at": 0} | msgspec.to_builtins(
        an_origin(
            parents=[middle, root], job_id="ftjob-3", dataset_digests=["d4"], metrics={"loss": 0.5}
        )
    )
    walked = [own, parent, grandparent]
    assert [one["digest"] for one in walked] == [last, middle, root]
    assert [one["adapter"] for one in walked] == ["support", "support", "sales"]
    assert [one["origin"]["job_id"] for one in walked] == ["ftjob-3", "ftjob-2", "ftjob-1"]
    datasets = [one["origin"]["dataset_digests"] for one in walked]
    assert datasets == [["d4"], ["d2", "d3"], ["d1"]]
    assert [one["digest"] for one in await lineage(acme, middle[:8])] == [middle, root]


async def test_lineage_tells_of_parents_that_were_deleted_or_damaged(
    acme: httpx.AsyncClient, line: Line, store: AdapterStore
) -> None:
    name, root = await line.publish(1)
    _, middle = await line.publish(2, root)
    _, last = await line.publish(3, middle)
    assert (await acme.delete(f"/v1/models/{quote(name)}")).status_code == 200
    gone = {"digest": root, "adapter": None, "state": "deleted", "origin": None}
    assert (await lineage(acme, last))[2] == gone
    [folder] = folders(store, middle)
    weights = folder / "adapter_model.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-4])
    damaged = {"digest": middle, "adapter": "support", "state": "damaged", "origin": None}
    assert (await lineage(acme, last))[1:] == [damaged]


async def test_lineage_never_leaves_the_tenant(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, line: Line
) -> None:
    _, theirs = await line.publish(1, tenant="globex")
    _, own = await line.publish(2, theirs)
    gone = {"digest": theirs, "adapter": None, "state": "deleted", "origin": None}
    assert (await lineage(acme, own))[1:] == [gone]


def folders(store: AdapterStore, digest: str) -> list[Path]:
    """Find where a revision is of acme's `support`."""
    refs = [ref for ref in store.list("acme", "support") if ref.digest == digest]
    return [store.open(ref).path for ref in refs]
