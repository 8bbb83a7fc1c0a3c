"""What a model's name stands for, and what deleting one takes away."""

from pathlib import Path

import pytest

from adapters_store import (
    MemoryAdapterStore,
    Revision,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from service.adapters.parents import open_parent
from service.adapters.repository import RevisionRepository
from service.adapters.service import ModelService
from service.base.description import BaseDescription, describe
from service.database import Database
from service.database.models import TenantRow
from service.errors import AdaptersUnavailable, Forbidden, NotFound
from service.settings import BUNDLED_BASE
from tests.builders import a_peft_folder, an_origin

BASE = "lorehouse-tiny"


class House:
    """A tenant's models, made as a runtime makes them: the files first, then the rows."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.store = MemoryAdapterStore()
        self.folder = folder
        self.base: BaseDescription = describe(str(BUNDLED_BASE))
        self.models = ModelService(database, self.store, self.base)

    async def publish(
        self, seed: int, tenant: str = "acme", adapter: str = "support", step: int | None = None
    ) -> tuple[str, RevisionRef]:
        staged = a_peft_folder(self.folder / str(seed), seed=seed)
        ref = self.store.publish(tenant, adapter, staged, an_origin()).ref
        async with self.database.write() as session:
            name = await RevisionRepository(session).record(
                tenant,
                adapter,
                ref.digest,
                base_name=BASE,
                format="chat",
                job_id="j",
                size=0,
                step=step,
            )
        return name, ref


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> House:
    async with database.write() as session:
        session.add_all([TenantRow(id="acme", created_at=1), TenantRow(id="globex", created_at=1)])
    return House(database, tmp_path)


async def test_the_bases_id_is_the_base_and_nothing_else_is(house: House) -> None:
    target = await house.models.resolve("acme", BASE)
    assert (target.revision, target.model, target.format) == (None, BASE, "chat")
    for name in ("lorehouse-tiny2", "LOREHOUSE-TINY", f"{BASE}@latest", "", "gpt-4o", f"/{BASE}"):
        with pytest.raises(NotFound):
            await house.models.resolve("acme", name)


async def test_every_form_of_a_name_stands_for_its_exact_revision(house: House) -> None:
    old, old_ref = await house.publish(1)
    new, new_ref = await house.publish(2)
    step, step_ref = await house.publish(3, step=7)
    expected = {
        old: (old, old_ref),
        new: (new, new_ref),
        step: (step, step_ref),
        "support": (new, new_ref),
        f"support@{old_ref.digest[:8]}": (old, old_ref),
        f"support@{old_ref.digest}": (old, old_ref),
        f"support@{step_ref.digest[:8]}": (step, step_ref),
    }
    for name, (model, ref) in expected.items():
        target = await house.models.resolve("acme", name)
        assert (target.model, target.revision) == (model, ref)


async def test_aliases_are_not_there_yet(house: House) -> None:
    await house.publish(1)
    with pytest.raises(NotFound):
        await house.models.resolve("acme", "support@production")


async def test_another_tenants_names_are_unknown_in_the_same_words(house: House) -> None:
    name, _ = await house.publish(1)
    with pytest.raises(NotFound) as foreign:
        await house.models.resolve("globex", name)
    missing = name.replace("acme", "nobody")
    with pytest.raises(NotFound) as unknown:
        await house.models.resolve("globex", missing)
    assert foreign.value.message.replace(name, missing) == unknown.value.message
    assert (foreign.value.code, foreign.value.param) == ("model_not_found", "model")


async def test_the_newest_is_the_tenants_own(house: House) -> None:
    await house.publish(1)
    sales, ref = await house.publish(2, adapter="sales")
    await house.publish(3, tenant="globex")
    assert await house.models.newest("acme") == "sales"
    newest = await house.models.resolve("acme", "sales")
    assert (newest.model, newest.revision) == (sales, ref)
    with pytest.raises(NotFound) as fault:
        await house.models.newest("initech")
    assert (fault.value.code, fault.value.param) == ("model_not_found", "adapter")


async def test_files_stay_until_the_last_name_goes(house: House) -> None:
    result, ref = await house.publish(1)
    checkpoint, _ = await house.publish(1, step=9)
    await house.models.delete("acme", result)
    assert house.store.open(ref).ref == ref
    assert (await house.models.resolve("acme", checkpoint)).revision == ref
    await house.models.delete("acme", checkpoint)
    with pytest.raises(RevisionNotFound):
        house.store.open(ref)
    for name in (result, checkpoint):
        with pytest.raises(NotFound):
            await house.models.resolve("acme", name)


async def test_files_that_are_gone_already_do_not_keep_a_model(house: House) -> None:
    name, ref = await house.publish(1)
    house.store.delete(ref)
    assert (await house.models.delete("acme", name)).deleted is True
    assert len((await house.models.list("acme")).data) == 1


async def test_only_an_exact_name_of_ones_own_can_be_deleted(house: House) -> None:
    name, ref = await house.publish(1)
    for tenant, model in (("globex", name), ("acme", "support"), ("acme", f"support@{ref.digest}")):
        with pytest.raises(NotFound):
            await house.models.delete(tenant, model)
    with pytest.raises(Forbidden, match="base"):
        await house.models.delete("acme", BASE)
    assert house.store.open(ref).ref == ref


class Unreachable(MemoryAdapterStore):
    """A store that was reached for the last time when something was published."""

    answers = True

    def open(self, ref: RevisionRef) -> Revision:
        """Fail once it is cut off."""
        if not self.answers:
            raise StoreUnavailable("no route")
        return super().open(ref)

    def delete(self, ref: RevisionRef) -> None:
        """Fail always."""
        raise StoreUnavailable("no route")


async def test_a_model_is_gone_at_once_though_its_files_cannot_be_removed_now(
    house: House,
) -> None:
    house.store = house.models.store = Unreachable()
    name, ref = await house.publish(1)

    assert (await house.models.delete("acme", name)).deleted

    with pytest.raises(NotFound):
        await house.models.resolve("acme", name)
    assert list(house.store.list("acme")) == [ref]


async def test_a_parent_in_a_store_that_does_not_answer_is_worth_another_try(
    house: House,
) -> None:
    house.store = store = Unreachable()
    _, ref = await house.publish(1)
    store.answers = False

    with pytest.raises(AdaptersUnavailable):
        open_parent(store, house.base, ref)
