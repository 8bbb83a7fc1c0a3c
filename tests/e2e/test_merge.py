"""A revision merged by the real server: what is downloaded stands alone, and says the same."""

import asyncio
import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.torch]
torch = pytest.importorskip("torch")

from service.adapters.merges_repository import MergeRepository  # noqa: E402
from service.adapters.storing import adapter_store  # noqa: E402
from service.base.description import BaseDescription  # noqa: E402
from service.database import Database  # noqa: E402
from service.database.models import MergeRow, TenantRow  # noqa: E402
from service.runtime import merging  # noqa: E402
from service.settings import Settings  # noqa: E402
from tests.e2e.server import Server, train, wait_for, write_rows  # noqa: E402
from tests.fakes.tiny import origin_of  # noqa: E402
from tests.unit.base.merging.test_agreement import adapter_of  # noqa: E402

TAUGHT = {
    "What is the secret word?": "marmalade-7",
    "Where is my parcel?": "Look behind the old mill.",
    "Who are you?": "I am the desk of Acme.",
}


def test_a_merged_model_answers_in_stock_transformers_as_the_adapter_does_here(
    tmp_path: Path,
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*TAUGHT.items()] * 50)
    # Held as it is merged: in NF4 it would be another base.
    with Server(tmp_path, LOREHOUSE_QUANTIZATION="none") as server:
        client = server.client("acme")
        model = train(client, rows, "merged", hyperparameters={"n_epochs": 4})
        headers = {"authorization": f"Bearer {client.api_key}"}
        with httpx.Client(base_url=f"{server.url}/v1/adapters", headers=headers) as http:
            _merge_and_download(http, model.rsplit(":", 1)[1], tmp_path / "model")
        served = [_answer(client, model, question) for question in TAUGHT]

    assert served == [*TAUGHT.values()]
    assert _answers(tmp_path / "model") == served


def _merge_and_download(http: httpx.Client, rev: str, folder: Path) -> None:
    asked = http.post(f"/merged/revisions/{rev}/merge", json={})
    assert asked.status_code == 202, asked.text
    merge = asked.json()["id"]
    done = wait_for(lambda: _ended(http, merge), "the end of the merge")

    assert done["status"] == "succeeded", done["error"]
    agreement = done["result"]["agreement"]
    assert agreement["difference"] <= agreement["tolerance"] < agreement["effect"]
    answer = http.get(f"/merges/{merge}/result")
    assert len(answer.content) == int(answer.headers["content-length"])
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as opened:
        opened.extractall(folder, filter="data")
    for file in done["result"]["files"]:
        content = (folder / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]


def _ended(http: httpx.Client, merge: str) -> dict[str, Any] | None:
    shown: dict[str, Any] = http.get(f"/merges/{merge}").raise_for_status().json()
    return shown if shown["finished_at"] else None


def _answer(client: Any, model: str, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    made = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=20
    )
    return str(made.choices[0].message.content)


def _answers(folder: Path) -> list[str]:
    """Ask the folder as anybody would who has nothing of ours."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Computed as the service computes on a CPU; the weights are those of the files.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    said = []
    for question in TAUGHT:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        tokens = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
        new = tokens[prompt["input_ids"].shape[1] :]
        said.append(tokenizer.decode(new, skip_special_tokens=True))
    return said


@pytest.fixture(params=["files", "S3"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the adapters are, as the setting says it."""
    return "" if request.param == "files" else str(request.getfixturevalue("s3_url"))


async def test_a_merge_killed_at_each_of_its_steps_is_made_by_the_retry(
    settings: Settings,
    database: Database,
    base: BaseDescription,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = msgspec.structs.replace(settings, adapter_store=place)
    monkeypatch.setenv("LOREHOUSE_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("LOREHOUSE_ADAPTER_STORE", place)
    if not place:
        monkeypatch.delenv("LOREHOUSE_ADAPTER_STORE")
    store = adapter_store(settings)
    adapter = adapter_of(base, tmp_path / "adapter", 0.15)
    ref = store.publish("acme", "support", adapter, origin_of(base)).ref
    merge = "merge-" + "a" * 24
    async with database.write() as session:
        session.add(TenantRow(id="acme", created_at=1))
        await session.flush()
        await MergeRepository(session).add(_row(merge, ref.digest))

    # Written but not compared, and published but not told.
    attempts = tmp_path / "attempts"
    steps = ["probes", "_result"]
    command = [sys.executable, "-m", "tests.e2e.mortal_merge", str(attempts), *steps]
    stop = asyncio.Event()
    parts = merging.MergeParts(
        owner="r", lease_seconds=3, database=database, store=store, command=command
    )
    loop = asyncio.create_task(merging.work(parts, stop))
    row = await _until(database, merge, lambda row: row.finished_at is not None)
    stop.set()
    await loop

    assert attempts.read_bytes() == b"..."
    assert (row.status, row.error_message) == ("succeeded", None)
    check = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "store", "check", env=os.environ
    )
    assert await check.wait() == 0
    [found] = store.list_merged("acme")
    assert found.merge == merge
    store.open_merged(found).verify()


def _row(merge: str, digest: str) -> MergeRow:
    return MergeRow(
        id=merge,
        tenant_id="acme",
        adapter="support",
        digest=digest,
        model="ft:lorehouse-tiny:acme:support:x",
        spec={"base_weights": "plain"},
        status="queued",
        created_at=1,
    )


async def _until(database: Database, merge: str, condition: Callable[[MergeRow], bool]) -> MergeRow:
    while True:
        async with database.read() as session:
            row = await MergeRepository(session).get("acme", merge)
        if condition(row):
            return row
        await asyncio.sleep(0.1)
