"""kill -9 at every step of what changes names and files: each is whole afterwards, or not begun.

On a folder and on object storage, with the database that names the revisions. Afterwards the store
passes `lorehouse store check`, every name gives what it gave before or what it gives after the
deed, never a mixture, and doing it once more completes it.
"""

import asyncio
import os
import shutil
from itertools import count
from pathlib import Path

import obstore
import pytest
from msgspec.structs import replace
from obstore.store import from_url

from adapters_store.layout import MANIFEST_FILE
from service.adapters.aliases_schemas import MoveAlias, TargetChoice
from service.adapters.repository import RevisionRepository
from service.database.models import JobRow, TenantRow
from service.jobs.repository import JobRepository
from service.maintenance import check_store
from service.settings import Settings
from tests.builders import a_peft_folder, an_origin
from tests.e2e.deeds import ADAPTER, ALIAS, JOB, TENANT, Deed, Registry, do, do_elsewhere
from tests.object_storage import Objects
from tests.unit.adapters_store.killing import asks_obstore, changes_files, killed_at

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Made = tuple[Settings, dict[str, str]]
"""A registry, and its three revisions by role: what the alias named, what it names, a spare one."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four adapters as training leaves them; the last one is the job's result."""
    made = tmp_path_factory.mktemp("adapters")
    return [a_peft_folder(made / str(seed), seed=seed, rank=1) for seed in range(4)]


both = pytest.mark.parametrize("where", ["filesystem", "S3"])


@pytest.fixture
def where() -> str:
    """Where the files are; it is all the same to what touches none."""
    return "filesystem"


@pytest.fixture
def pattern(
    where: str, request: pytest.FixtureRequest, settings: Settings, folders: list[Path]
) -> Made:
    """A registry in use, to be copied."""
    if where == "S3":
        settings = replace(settings, adapter_store=request.getfixturevalue("s3_url"))
    return settings, asyncio.run(_fill(settings, folders))


async def _fill(settings: Settings, folders: list[Path]) -> dict[str, str]:
    registry = Registry(settings)
    store, digests = registry.store, dict[str, str]()
    for role, folder in zip(["before", "now", "spare"], folders, strict=False):
        digests[role] = store.publish(TENANT, ADAPTER, folder, an_origin()).ref.digest
    async with registry.database.write() as session:
        session.add(TenantRow(id=TENANT, created_at=1))
        await session.flush()
        await JobRepository(session).add(_job())
        for digest in digests.values():
            await RevisionRepository(session).record(
                TENANT,
                ADAPTER,
                digest,
                base_name="lorehouse-tiny",
                format="chat",
                job_id="ftjob-0",
                size=0,
            )
    aliases = registry.aliases
    for version, role in enumerate(["before", "now"]):
        body = MoveAlias(targets=[TargetChoice(revision=digests[role])], reason="good")
        await aliases.move(TENANT, ADAPTER, ALIAS, body, expected=version, key_id=None)
    await registry.close()
    return digests


@both
def test_publishing(pattern: Made, tmp_path: Path, folders: list[Path]) -> None:
    assert each_step(pattern[0], tmp_path, ("publish", (folders[3],))) > 8


def test_moving_an_alias(pattern: Made, tmp_path: Path) -> None:
    settings, digests = pattern
    assert each_step(settings, tmp_path, ("move", (digests["spare"], 2))) > 5


def test_rolling_an_alias_back(pattern: Made, tmp_path: Path) -> None:
    assert each_step(pattern[0], tmp_path, ("roll_back", (2,))) > 5


@both
def test_deleting_a_model(pattern: Made, tmp_path: Path) -> None:
    settings, digests = pattern
    name = f"ft:lorehouse-tiny:{TENANT}:{ADAPTER}:{digests['spare'][:8]}"
    assert each_step(settings, tmp_path, ("delete", (name,))) > 5


@both
def test_collecting(pattern: Made, tmp_path: Path) -> None:
    settings, _ = pattern
    _tear(settings)
    assert each_step(settings, tmp_path, ("collect", ())) > 3


def each_step(pattern: Settings, folder: Path, deed: Deed) -> int:
    """Die at every step of a deed, each time on a copy of a registry; give how many there were."""
    before = do(_copy(pattern, folder / "before"), ("seen", ()))
    done = _copy(pattern, folder / "after")
    do(done, deed)
    after = do(done, ("seen", ()))
    counted = asks_obstore if pattern.adapter_store else changes_files
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for steps in count():
        settings = _copy(pattern, folder / str(steps))
        killed = killed_at(steps, do_elsewhere, environment, settings, deed, counted=counted)
        check_store(settings, None, print)
        assert do(settings, ("seen", ())) in (before, after)
        do(settings, deed)
        assert do(settings, ("seen", ())) == after
        check_store(settings, None, print)
        do(settings, ("collect", ()))
        assert _files(settings) == _files(done)
        shutil.rmtree(settings.data_dir)
        if not killed:
            return steps
    raise AssertionError


def _job() -> JobRow:
    return JobRow(
        id=JOB,
        tenant_id=TENANT,
        status="queued",
        model="lorehouse-tiny",
        adapter=ADAPTER,
        training_file="file-1",
        seed=0,
        method={},
        spec={},
        publish_alias=ALIAS,
        created_at=1,
    )


def _copy(pattern: Settings, folder: Path) -> Settings:
    shutil.copytree(pattern.data_dir, folder)
    if not pattern.adapter_store:
        return replace(pattern, data_dir=folder)
    url = f"{pattern.adapter_store}-{folder.name}"
    source, target = from_url(pattern.adapter_store), from_url(url)
    for key in Objects(pattern.adapter_store).all():
        obstore.put(target, key, obstore.get(source, key).bytes())
    return replace(pattern, data_dir=folder, adapter_store=url)


def _tear(settings: Settings) -> None:
    """Leave content without a manifest, as of a publish that died."""
    if settings.adapter_store:
        objects = Objects(settings.adapter_store)
        for key in objects.all():
            if not key.endswith(MANIFEST_FILE):
                *place, digest, upload, name = key.split("/")
                objects.write("/".join([*place, digest, upload[::-1], name]), objects.read(key))
        return
    adapter = settings.data_dir / "adapters" / TENANT / ADAPTER
    for place in [*adapter.iterdir()]:
        torn = adapter / place.name[::-1]
        shutil.copytree(place, torn)
        (torn / MANIFEST_FILE).unlink()


def _files(settings: Settings) -> int:
    """Count what lies in the store."""
    if settings.adapter_store:
        return len(Objects(settings.adapter_store).all())
    return sum(path.is_file() for path in (settings.data_dir / "adapters").rglob("*"))
