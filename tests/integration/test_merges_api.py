"""`/v1/adapters/merges`: from the asking to the download, and all that may come between."""

import hashlib
import io
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from adapters_store import AdapterStore, MergedRef, RevisionNotFound, checking, layout
from service.adapters.merges_repository import MAX_ATTEMPTS, MergeRepository
from service.database import Database
from service.database.models import MergeRow, RevisionRow
from service.runtime.merge_messages import MergeOrder
from tests.builders import a_model_folder
from tests.fakes.merger import AGREEMENT
from tests.integration.aliasing import ADAPTERS, error_of
from tests.integration.merging import MERGES, Mill

LATER = 4e9


@pytest.fixture
async def mill(
    acme: httpx.AsyncClient, database: Database, store: AdapterStore, tmp_path: Path
) -> Mill:
    made = Mill(acme, database, store, tmp_path)
    await made.publish()
    return made


def ref_of(merge: dict[str, Any]) -> MergedRef:
    return MergedRef("acme", "support", merge["revision"], merge["id"])


def unfold(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        files = {member.name: opened.extractfile(member) for member in opened}
        return {name: file.read() for name, file in files.items() if file is not None}


def assert_nothing_kept(store: AdapterStore) -> None:
    assert list(store.list_merged("acme")) == []
    assert list(checking.check(store, LATER)) == []


async def test_a_merge_is_queued_made_and_downloaded(mill: Mill, tmp_path: Path) -> None:
    asked = await mill.ask()

    assert (asked["object"], asked["status"], asked["base_weights"]) == (
        "adapter.merge",
        "queued",
        "plain",
    )
    assert asked["model"] == f"ft:lorehouse-tiny:acme:support:{mill.rev}"
    assert asked["revision"][:8] == mill.rev
    assert asked["result"] is asked["error"] is asked["started_at"] is None
    assert (await mill.client.get(MERGES)).json()["data"] == [asked]

    async with mill.working("publish"):
        done = await mill.ended(asked["id"])

    assert (done["status"], done["error"]) == ("succeeded", None)
    assert done["result"]["agreement"] == AGREEMENT
    answer = await mill.client.get(f"{MERGES}/{asked['id']}/result")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["x-lorehouse-revision"] == asked["revision"]
    assert f'filename="{asked["id"]}.tar"' in answer.headers["content-disposition"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    files = unfold(answer.content)
    written = {path.name: path.read_bytes() for path in a_model_folder(tmp_path / "m").iterdir()}
    assert files == written
    assert {f["name"]: (f["bytes"], f["sha256"]) for f in done["result"]["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in written.items()
    }
    again = await mill.client.get(f"{MERGES}/{asked['id']}/result")
    assert again.content == answer.content


async def test_how_it_is_asked_for_reaches_the_process(mill: Mill, database: Database) -> None:
    asked = await mill.ask(base_weights="nf4")

    assert asked["base_weights"] == "nf4"
    async with database.write() as session:
        row = await MergeRepository(session).claim("somebody", 1)
    assert row is not None
    order = MergeOrder(ref_of(asked), row.spec["base_weights"])
    assert order.base_weights == "nf4"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"base_weights": "fp4"}, "base_weights"),
        ({"base_weights": None}, "base_weights"),
        ({"base": "nf4"}, "base"),
        ([], None),
    ],
)
async def test_a_bad_body_is_refused_by_its_field(mill: Mill, body: object, param: str) -> None:
    url = f"{ADAPTERS}/support/revisions/{mill.rev}/merge"
    assert error_of(await mill.client.post(url, json=body), 400)["param"] == param
    assert (await mill.client.get(MERGES)).json()["data"] == []


async def test_unknown_and_foreign_things_are_not_found_alike(
    mill: Mill, globex: httpx.AsyncClient
) -> None:
    asked = await mill.ask()
    ways = [("GET", ""), ("POST", "/cancel"), ("GET", "/result"), ("DELETE", "")]
    for method, rest in ways:
        foreign = await globex.request(method, f"{MERGES}/{asked['id']}{rest}")
        unknown = await globex.request(method, f"{MERGES}/merge-{'0' * 24}{rest}")
        assert error_of(foreign, 404)["code"] == "merge_not_found"
        assert foreign.text.replace(asked["id"], "X") == unknown.text.replace(
            f"merge-{'0' * 24}", "X"
        )
    url = f"{ADAPTERS}/support/revisions/{{}}/merge"
    theirs = await globex.post(url.format(mill.rev), json={})
    nobodys = await globex.post(url.format("0" * 8), json={})
    assert error_of(theirs, 404)["code"] == "revision_not_found"
    assert theirs.text.replace(mill.rev, "X") == nobodys.text.replace("0" * 8, "X")
    assert (await globex.get(MERGES)).json()["data"] == []
    assert error_of(await globex.get(MERGES, params={"after": asked["id"]}), 400)
    assert (await mill.get(asked["id"]))["status"] == "queued"


async def test_merges_come_in_pages(mill: Mill) -> None:
    asked = [(await mill.ask())["id"] for _ in range(3)]

    first = (await mill.client.get(MERGES, params={"limit": 2})).json()
    assert [merge["id"] for merge in first["data"]] == [asked[2], asked[1]]
    assert (first["has_more"], first["last_id"]) == (True, asked[1])
    rest = (await mill.client.get(MERGES, params={"limit": 2, "after": asked[1]})).json()
    assert [merge["id"] for merge in rest["data"]] == [asked[0]]
    assert rest["has_more"] is False


async def test_a_rejected_revision_is_refused(mill: Mill, database: Database) -> None:
    async with database.write() as session:
        await session.execute(update(RevisionRow).values(status="rejected"))
    url = f"{ADAPTERS}/support/revisions/{mill.rev}/merge"
    answer = await mill.client.post(url, json={})
    assert error_of(answer, 409)["code"] == "revision_rejected"
    assert answer.headers["x-should-retry"] == "false"

    async with database.write() as session:
        await session.execute(update(RevisionRow).values(overridden_at=1, override_reason="so"))
    assert (await mill.client.post(url, json={})).status_code == 202


async def test_a_merge_that_disagrees_fails_and_keeps_nothing(mill: Mill) -> None:
    asked = await mill.ask()
    async with mill.working("refuse"):
        done = await mill.ended(asked["id"])

    assert (done["status"], done["result"]) == ("failed", None)
    assert done["error"] == {"code": "merge_disagrees", "message": "It differs."}
    early = await mill.client.get(f"{MERGES}/{asked['id']}/result")
    assert error_of(early, 409)["code"] == "merge_not_succeeded"
    assert_nothing_kept(mill.store)


async def test_what_has_not_ended_is_not_deleted_and_has_no_result(mill: Mill) -> None:
    asked = await mill.ask()
    url = f"{MERGES}/{asked['id']}"
    assert error_of(await mill.client.delete(url), 409)["code"] == "merge_not_finished"
    assert error_of(await mill.client.get(f"{url}/result"), 409)["code"] == "merge_not_succeeded"


async def test_a_queued_merge_is_cancelled_at_once_and_again_and_never_made(mill: Mill) -> None:
    asked, other = await mill.ask(), await mill.ask()
    for _ in range(2):
        answer = await mill.client.post(f"{MERGES}/{asked['id']}/cancel")
        assert answer.json()["status"] == "cancelled"
    async with mill.working("publish"):
        await mill.ended(other["id"])

    assert (await mill.get(asked["id"]))["started_at"] is None
    assert list(mill.store.list_merged("acme")) == [ref_of(other)]
    late = await mill.client.post(f"{MERGES}/{other['id']}/cancel")
    assert error_of(late, 409)["code"] == "merge_has_ended"


async def hanging(mill: Mill) -> int:
    """Wait until the process hangs; its id."""
    marker = mill.root / "data" / "adapters.hanging"
    shown = (await mill.client.get(MERGES)).json()["data"][0]
    await mill.until(shown["id"], lambda _: marker.is_file() and marker.read_text() != "")
    return int(marker.read_text())


async def test_a_running_merge_is_cancelled_its_process_is_killed_and_nothing_is_kept(
    mill: Mill,
) -> None:
    asked = await mill.ask()
    async with mill.working("hang"):
        process = await hanging(mill)
        answer = await mill.client.post(f"{MERGES}/{asked['id']}/cancel")
        assert answer.json()["status"] == "cancelled"
        assert (await row_of(mill, asked["id"])).lease_expires_at is not None
        await mill.until(asked["id"], lambda _: not Path(f"/proc/{process}").exists())
    assert (await row_of(mill, asked["id"])).lease_expires_at is None

    assert (await mill.client.delete(f"{MERGES}/{asked['id']}")).status_code == 200
    assert_nothing_kept(mill.store)


async def test_a_shutdown_gives_the_merge_back_and_kills_its_process(mill: Mill) -> None:
    asked = await mill.ask()
    async with mill.working("hang"):
        process = await hanging(mill)

    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert (await mill.get(asked["id"]))["status"] == "queued"
    async with mill.working("publish", "runtime-2"):
        assert (await mill.ended(asked["id"]))["status"] == "succeeded"


@pytest.mark.parametrize("how", ["die", "die_late"])
async def test_a_process_that_dies_is_tried_again_when_the_lease_lapses(
    mill: Mill, how: str
) -> None:
    asked = await mill.ask()
    async with mill.working(how):
        await mill.until(asked["id"], lambda shown: shown["status"] == "running")
        await _attempted(mill, asked["id"], 2)
    async with mill.working("publish", "runtime-2"):
        done = await mill.ended(asked["id"])

    assert done["status"] == "succeeded"
    assert list(mill.store.list_merged("acme")) == [ref_of(asked)]
    assert list(checking.check(mill.store, LATER)) == []


async def test_a_process_that_always_dies_is_given_up(mill: Mill) -> None:
    asked = await mill.ask()
    async with mill.working("die"):
        done = await mill.ended(asked["id"])

    assert done["status"] == "failed"
    assert done["error"]["code"] == "merge_crashed"
    assert str(MAX_ATTEMPTS) in done["error"]["message"]
    assert_nothing_kept(mill.store)


async def test_a_killed_process_is_no_end_either(mill: Mill) -> None:
    asked = await mill.ask()
    async with mill.working("hang"):
        os.kill(await hanging(mill), signal.SIGKILL)
        await _attempted(mill, asked["id"], 2)
    assert (await mill.get(asked["id"]))["status"] in ("queued", "running")


async def test_a_deleted_merge_is_gone_with_its_files(mill: Mill) -> None:
    asked = await mill.ask()
    async with mill.working("publish"):
        await mill.ended(asked["id"])

    answer = await mill.client.delete(f"{MERGES}/{asked['id']}")

    assert answer.json() == {"id": asked["id"], "object": "adapter.merge", "deleted": True}
    assert error_of(await mill.client.get(f"{MERGES}/{asked['id']}"), 404)
    with pytest.raises(RevisionNotFound):
        mill.store.open_merged(ref_of(asked))
    assert_nothing_kept(mill.store)


async def test_the_files_go_with_the_revision_and_the_merge_says_so(mill: Mill) -> None:
    asked = await mill.ask()
    async with mill.working("publish"):
        await mill.ended(asked["id"])
    assert (await mill.client.delete(f"/v1/models/{asked['model']}")).status_code == 200

    gone = await mill.client.get(f"{MERGES}/{asked['id']}/result")

    assert error_of(gone, 404)["code"] == "merge_result_gone"
    assert (await mill.get(asked["id"]))["status"] == "succeeded"
    assert (await mill.client.delete(f"{MERGES}/{asked['id']}")).status_code == 200
    assert list(checking.check(mill.store, LATER)) == []


@pytest.mark.parametrize("cut", [True, False])
async def test_a_damaged_result_is_never_given_whole(mill: Mill, cut: bool) -> None:
    asked = await mill.ask()
    async with mill.working("publish"):
        await mill.ended(asked["id"])
    parts = (*layout.parts(ref_of(asked)), "model-00001-of-00001.safetensors")
    file = (mill.root / "data" / "adapters").joinpath(*parts)
    file.chmod(0o600)
    content = file.read_bytes()
    file.write_bytes(content[:-1] if cut else content[:-1] + bytes([content[-1] ^ 1]))

    if cut:
        answer = await mill.client.get(f"{MERGES}/{asked['id']}/result")
        assert error_of(answer, 409)["code"] == "merge_damaged"
        return
    answer = await mill.client.get(f"{MERGES}/{asked['id']}/result")
    assert len(answer.content) < int(answer.headers["content-length"])


async def row_of(mill: Mill, merge: str) -> MergeRow:
    async with mill.database.read() as session:
        return await MergeRepository(session).get("acme", merge)


async def _attempted(mill: Mill, merge: str, times: int) -> None:
    while (await row_of(mill, merge)).attempts < times:
        await mill.get(merge)
