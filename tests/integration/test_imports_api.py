"""`/v1/adapters/import` and `/export`: in and out, and no bad adapter in by any way."""

import asyncio
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from adapters_store import AdapterStore
from service.adapters.imports import ImportService
from service.adapters.imports_schemas import ImportAdapter
from service.adapters.origins import library_versions
from service.app import create_app
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import RevisionRow
from service.datasets.folder import FileFolder
from service.datasets.receive import Received
from service.settings import Settings
from service.tenants.quotas import Quotas
from tests.archives import CONFIG, MANIFEST, WEIGHTS, Folder, folder_of, tar
from tests.builders import an_origin
from tests.fakes.engine import FakeEngine
from tests.integration.aliasing import error_of
from tests.integration.importing import IMPORT, an_adapter, archive_form, everything, files_form

REVISIONS = "/v1/adapters/brought/revisions"


@pytest.fixture
def adapter(tmp_path: Path) -> Folder:
    return an_adapter(tmp_path / "made")


async def imported(client: httpx.AsyncClient, form: dict[str, Any], status: int = 201) -> Any:
    answer = await client.post(IMPORT, **form)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_an_archive_becomes_a_revision_that_answers(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, adapter: Folder
) -> None:
    made = await imported(acme, archive_form(tar(adapter, root="some-adapter/")))
    assert made["object"] == "adapter.revision"
    assert made["model"] == f"ft:lorehouse-tiny:acme:brought:{made['rev']}"
    assert (made["adapter"], made["job_id"], made["step"]) == ("brought", None, None)
    assert made["models"] == [{"id": made["model"], "job_id": None, "step": None}]
    assert (made["format"], made["digest"][:8]) == ("chat", made["rev"])
    outcomes = {check["name"]: check["outcome"] for check in made["gate"]["checks"]}
    assert (made["status"], made["gate"]["passed"]) == ("published", True)
    assert outcomes["loads"] == outcomes["finite"] == outcomes["changes_base"] == "passed"
    shown = (await acme.get(f"{REVISIONS}/{made['rev']}")).json()
    parity = shown.pop("parity")
    assert shown == {key: value for key, value in made.items() if key != "model"}
    assert (parity["match"]["base"], parity["match"]["quantization"]) == (True, None)
    for name in (made["model"], "brought", f"brought@{made['digest']}"):
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
        answer = await acme.post("/v1/chat/completions", json=body)
        assert answer.json()["model"] == made["model"]
        assert answer.headers["x-lorehouse-revision"] == made["digest"]
        assert (await globex.post("/v1/chat/completions", json=body)).status_code == 404


async def test_its_lineage_says_that_it_came_from_elsewhere(
    acme: httpx.AsyncClient, adapter: Folder, base: BaseDescription
) -> None:
    made = await imported(acme, files_form(adapter))
    lineage = (await acme.get(f"{REVISIONS}/{made['rev']}/lineage")).json()
    [own] = lineage["data"]
    assert own["origin"] | {"created_at": 0} == {
        "created_at": 0,
        "base": "lorehouse-tiny",
        "base_commit": None,
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "chat_template_digest": base.chat_template_digest,
        "quantization": "unknown",
        "compute_dtype": "unknown",
        "format": "chat",
        "spec": {},
        "library_versions": library_versions(),
        "job_id": None,
        "step": None,
        "dataset_digests": [],
        "metrics": {},
        "parents": [],
        "imported": True,
    }


async def test_equal_content_is_one_revision_however_it_comes(
    acme: httpx.AsyncClient, settings: Settings, adapter: Folder
) -> None:
    made = await imported(acme, archive_form(tar(adapter), format="raw"))
    there = everything(settings)
    elsewhere = json.loads(adapter[CONFIG]) | {"base_model_name_or_path": "/home/me/base"}
    renamed = adapter | {CONFIG: json.dumps(elsewhere).encode()}
    for form in (archive_form(tar(adapter)), files_form(renamed, format="chat")):
        assert await imported(acme, form, 200) == made
        assert everything(settings) == there
    other = await imported(acme, archive_form(tar(adapter), adapter="another"))
    assert (other["digest"], other["id"] != made["id"]) == (made["digest"], True)


async def test_equal_content_that_comes_at_once_is_one_revision(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, store: AdapterStore, adapter: Folder
) -> None:
    senders = [acme, acme, globex, acme]
    forms = [archive_form(tar(adapter), alias="production") for _ in senders]
    answers = await asyncio.gather(
        *(one.post(IMPORT, **form) for one, form in zip(senders, forms, strict=True))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 201, 201]
    assert len({answer.json()["id"] for answer in answers}) == 2
    history = (await acme.get("/v1/adapters/brought/aliases/production/history")).json()["data"]
    assert len(history) == 1
    for tenant in ("acme", "globex"):
        assert [ref.adapter for ref in store.list(tenant)] == ["brought"]


@pytest.mark.parametrize("steps", [1, 2, 5, 20, None])
async def test_an_import_that_is_cancelled_leaves_nothing(
    acme: httpx.AsyncClient,
    settings: Settings,
    store: AdapterStore,
    database: Database,
    base: BaseDescription,
    adapter: Folder,
    tmp_path: Path,
    steps: int | None,
) -> None:
    trying = asyncio.Event()

    async def try_for_ever(*_: object) -> Any:
        trying.set()
        await asyncio.Event().wait()

    imports = ImportService(
        database, store, base, FileFolder(tmp_path), try_for_ever, 1 << 30, Quotas()
    )
    (tmp_path / "adapter.tar").write_bytes(tar(adapter))
    files = {"file": Received(tmp_path / "adapter.tar", "adapter.tar", 0, "")}
    before = everything(settings)
    task = asyncio.create_task(imports.create("acme", files, ImportAdapter(adapter="x"), None))
    if steps is None:
        await trying.wait()
    for _ in range(steps or 0):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert everything(settings) == before


async def test_a_key_without_the_scope_neither_brings_nor_takes(
    acme: httpx.AsyncClient, admin: httpx.AsyncClient, adapter: Folder
) -> None:
    made = await imported(acme, archive_form(tar(adapter)))
    limited = {"name": "limited", "scopes": ["generate", "files"]}
    key = (await admin.post("/v1/admin/tenants/acme/keys", json=limited)).json()["key"]
    headers = {"authorization": f"Bearer {key}"}
    for answer in (
        await acme.post(IMPORT, **archive_form(tar(adapter)), headers=headers),
        await acme.get(f"{REVISIONS}/{made['rev']}/export", headers=headers),
    ):
        assert error_of(answer, 403)["code"] == "insufficient_permissions"


async def test_an_alias_moves_with_the_import_and_tells_who_and_why(
    acme: httpx.AsyncClient, adapter: Folder, tmp_path: Path
) -> None:
    first = await imported(acme, archive_form(tar(adapter), alias="production"))
    alias = (await acme.get("/v1/adapters/brought/aliases/production")).json()
    assert alias["targets"] == [{"revision": first["digest"], "weight": 1}]
    assert (alias["version"], alias["reason"]) == (1, "imported")
    assert alias["key_id"] is not None
    await imported(acme, archive_form(tar(adapter), alias="production"), 200)
    second = await imported(
        acme,
        archive_form(tar(an_adapter(tmp_path / "two", seed=2)), alias="production", reason="new"),
    )
    history = (await acme.get("/v1/adapters/brought/aliases/production/history")).json()["data"]
    named = [(one["targets"][0]["revision"], one["reason"]) for one in history]
    assert named == [(second["digest"], "new"), (first["digest"], "imported")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"adapter": "import"}, "adapter"),
        ({"adapter": "lorehouse-tiny"}, "adapter"),
        ({"adapter": "../acme"}, "adapter"),
        ({"adapter": "Brought"}, "adapter"),
        ({"format": "xml"}, "format"),
        ({"alias": "deadbeef"}, "alias"),
        ({"alias": "Über"}, "alias"),
        ({"reason": "because"}, "reason"),
        ({"alias": "production", "reason": ""}, "reason"),
        ({"path": "/etc/passwd"}, "path"),
        ({"url": "http://lorehouse.test/x"}, "url"),
    ],
)
async def test_a_bad_field_is_named(
    acme: httpx.AsyncClient,
    settings: Settings,
    adapter: Folder,
    fields: dict[str, str],
    param: str,
) -> None:
    before = everything(settings)
    answer = await acme.post(IMPORT, **archive_form(tar(adapter), **fields))
    assert error_of(answer, 400)["param"] == param
    assert everything(settings) == before


@pytest.mark.parametrize("parts", [(), ("adapter_config",), ("file", "adapter_config")])
async def test_a_form_needs_an_archive_or_both_files(
    acme: httpx.AsyncClient, adapter: Folder, parts: tuple[str, ...]
) -> None:
    files = {"file": tar(adapter), "adapter_config": adapter[CONFIG]}
    chosen = {part: (part, files[part]) for part in parts} or {"x": ("x", b"")}
    answer = await acme.post(IMPORT, files=chosen, data={"adapter": "brought"})
    assert error_of(answer, 400)["param"] == ("file" if parts else "x")
    answer = await acme.post(IMPORT, files={"file": ("x", tar(adapter))})
    assert error_of(answer, 400)["param"] == "adapter"


@pytest.mark.parametrize(
    ("file", "spoilt", "param", "reason"),
    [
        (CONFIG, b"{", "adapter_config", "adapter_config.json: is not JSON"),
        (WEIGHTS, b"PK\3\4", "adapter_model", "pickled code"),
    ],
)
async def test_the_part_at_fault_is_named(
    acme: httpx.AsyncClient,
    settings: Settings,
    adapter: Folder,
    file: str,
    spoilt: bytes,
    param: str,
    reason: str,
) -> None:
    before = everything(settings)
    error = error_of(await acme.post(IMPORT, **files_form(adapter | {file: spoilt})), 400)
    assert (error["param"], error["code"]) == (param, "invalid_adapter")
    assert reason in error["message"]
    assert everything(settings) == before


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"rank": 257}, "'r' is 257; the most that can be served is 256"),
    "width": ({"hidden": 128}, "has shape (4, 128), not (4, 256)"),
    "depth": ({"layers": 5}, "layers.5.self_attn.o_proj.lora_A.weight is missing"),
    "more depth": ({"layers": 7}, "layers.6.self_attn.o_proj.lora_A.weight is unexpected"),
    "targets": ({"targets": ("q_proj", "c_attn")}, "'target_modules' names 'c_attn', which is no"),
    "head": ({"targets": ("q_proj", "lm_head")}, "'target_modules' names 'lm_head', which is no"),
    "patterns": ({"alpha_pattern": {"q_proj": 3}}, "not one with alpha_pattern"),
}


@pytest.mark.parametrize(("changes", "reason"), OTHERS.values(), ids=OTHERS)
async def test_what_this_base_cannot_serve_is_named(
    acme: httpx.AsyncClient,
    settings: Settings,
    tmp_path: Path,
    changes: dict[str, Any],
    reason: str,
) -> None:
    before = everything(settings)
    form = archive_form(tar(an_adapter(tmp_path / "made", **changes)))
    error = error_of(await acme.post(IMPORT, **form), 400)
    assert (error["param"], error["code"]) == ("file", "invalid_adapter")
    assert reason in error["message"]
    answer = await acme.post(IMPORT, **files_form(an_adapter(tmp_path / "made", **changes)))
    in_config = "adapter_config.json: " in error["message"]
    part = "adapter_config" if in_config else "adapter_model"
    assert error_of(answer, 400)["param"] == part
    assert everything(settings) == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"base_digest": "b" * 64}, "base"),
        ({"tokenizer_digest": "c" * 64}, "tokenizer"),
        ({"chat_template_digest": "d" * 64}, "chat template"),
    ],
)
async def test_an_export_that_was_made_for_another_base_is_refused(
    acme: httpx.AsyncClient,
    settings: Settings,
    store: AdapterStore,
    base: BaseDescription,
    tmp_path: Path,
    changes: dict[str, str],
    what: str,
) -> None:
    an_adapter(tmp_path / "made")
    there = store.publish("globex", "x", tmp_path / "made", origin_here(base, **changes))
    before = everything(settings)
    answer = await acme.post(IMPORT, **archive_form(tar(folder_of(there.path))))
    assert f"made for another {what} than" in error_of(answer, 400)["message"]
    assert everything(settings) == before


def origin_here(base: BaseDescription, **changes: Any) -> Any:
    here = {
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "chat_template_digest": base.chat_template_digest,
    }
    return an_origin(**here | changes)


async def test_what_was_exported_comes_in_as_the_same_revision_and_format(
    acme: httpx.AsyncClient, globex: httpx.AsyncClient, adapter: Folder
) -> None:
    made = await imported(acme, archive_form(tar(adapter), format="raw"))
    answer = await acme.get(f"{REVISIONS}/{made['rev']}/export")
    again = await acme.get(f"{REVISIONS}/{made['digest']}/export")
    assert answer.status_code == 200
    assert answer.content == again.content
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["etag"] == again.headers["etag"]
    assert answer.headers["x-lorehouse-revision"] == made["digest"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == [CONFIG, WEIGHTS, MANIFEST]
        kept = json.load(archive.extractfile(CONFIG))  # type: ignore[arg-type]
    assert kept["base_model_name_or_path"] == "lorehouse-tiny"
    theirs = await imported(globex, archive_form(answer.content))
    assert (theirs["digest"], theirs["format"]) == (made["digest"], "raw")
    foreign = await globex.get("/v1/adapters/none/revisions/deadbeef/export")
    unknown = await acme.get(f"{REVISIONS}/{'0' * 64}/export")
    assert error_of(foreign, 404)["code"] == error_of(unknown, 404)["code"] == "revision_not_found"


async def test_damaged_files_are_not_exported(
    acme: httpx.AsyncClient, store: AdapterStore, adapter: Folder
) -> None:
    made = await imported(acme, archive_form(tar(adapter)))
    [ref] = store.list("acme", "brought")
    weights = store.open(ref).path / WEIGHTS
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    error = error_of(await acme.get(f"{REVISIONS}/{made['rev']}/export"), 409)
    assert error["code"] == "revision_damaged"
    assert WEIGHTS in error["message"]


async def test_without_an_engine_nothing_is_imported(
    acme: httpx.AsyncClient, engine: FakeEngine, settings: Settings, adapter: Folder
) -> None:
    engine.available = False
    before = everything(settings)
    error = error_of(await acme.post(IMPORT, **archive_form(tar(adapter))), 503)
    assert error["code"] == "engine_unavailable"
    assert everything(settings) == before
    engine.available = True
    await imported(acme, archive_form(tar(adapter)))


async def test_what_the_gate_rejected_is_not_published_by_bringing_it_again(
    acme: httpx.AsyncClient, database: Database, settings: Settings, adapter: Folder
) -> None:
    made = await imported(acme, archive_form(tar(adapter)))
    async with database.write() as session:
        row = await session.scalar(select(RevisionRow).where(RevisionRow.id == made["id"]))
        assert row is not None
        row.status = "rejected"
    before = everything(settings)
    error = error_of(await acme.post(IMPORT, **archive_form(tar(adapter))), 409)
    assert (error["code"], error["param"]) == ("revision_rejected", "adapter")
    assert everything(settings) == before


async def test_what_a_crash_left_of_a_trial_goes_at_the_next_start(
    settings: Settings, base: BaseDescription, store: AdapterStore, tmp_path: Path
) -> None:
    an_adapter(tmp_path / "made")
    trial = store.publish("acme", "import", tmp_path / "made", origin_here(base))
    kept = store.publish("acme", "imports", tmp_path / "made", origin_here(base))
    async with create_app(settings, base=base, store=store).lifespan():
        pass
    assert list(store.list("acme")) == [kept.ref]
    assert not trial.path.exists()
