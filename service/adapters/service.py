"""Which models a tenant has, and what a model's name stands for. Never guesses: no name, no model.

The base's row is nowhere: it is what this server runs on. Its `created` is its files' date.
"""

from functools import cached_property

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession

from adapters_store import AdapterStore, RevisionRef
from service.adapters import names
from service.adapters.engine_ids import EngineIds
from service.adapters.leases import Lease, Leases
from service.adapters.lookup import look_up
from service.adapters.rejected import revision_rejected
from service.adapters.removing import Remover
from service.adapters.repository import RevisionRepository
from service.adapters.schemas import Model, ModelList
from service.base.description import BaseDescription
from service.database import Database
from service.database.models import RevisionRow
from service.errors import Forbidden, NotFound, ServiceError
from service.wire import Deleted

BASE_OWNER = "lorehouse"


class Target(msgspec.Struct, frozen=True):
    """What a model's name stands for right now.

    `revision` is None for the base. `model` is the exact name, which answers carry. `format` is
    `chat` or `raw`: how a bare prompt is rendered for it. `lease`, if there is one, is for whoever
    answers with it to close.
    """

    revision: RevisionRef | None
    model: str
    format: str
    created: int
    lease: Lease | None = None
    engine_id: int | None = None
    """The number by which engines know the revision."""


class ModelService:
    """The base and a tenant's own fine-tuned models."""

    def __init__(self, database: Database, store: AdapterStore, base: BaseDescription) -> None:
        self.database = database
        self.store = store
        self.base = base
        self.leases = Leases()
        self.remover = Remover(database, store, self.leases)

    async def leased(self, tenant_id: str, model: str, sticky: str | None = None) -> Target:
        """Find what a name stands for, and keep its files until the target's lease is closed.

        Raises NotFound.
        """
        lease = self.leases.open()
        try:
            target = await self.resolve(tenant_id, model, sticky)
            lease.hold(target.revision)
        except BaseException:
            lease.close()
            raise
        return replace(target, lease=lease)

    async def resolve(self, tenant_id: str, model: str, sticky: str | None = None) -> Target:
        """Find what a name stands for. Raises NotFound, alike for unknown and for foreign names.

        Among several targets of an alias, equal `sticky` keys get the same one; without a key it
        is drawn by weight. Raises Conflict for what the publish gate rejected.
        """
        if model == self.base.name:
            return self._base
        found = await look_up(self.database, tenant_id, model, sticky)
        if found is None:
            raise await self._absent(tenant_id, model)
        revision = RevisionRef(found.tenant_id, found.adapter, found.digest)
        return Target(
            revision=revision,
            model=found.name,
            format=found.format,
            created=found.created_at,
            engine_id=found.engine_id or await self._number(revision),
        )

    async def newest(self, tenant_id: str) -> str:
        """Name the tenant's adapter with the latest result. Raises NotFound."""
        async with self.database.read() as session:
            newest = await RevisionRepository(session).newest(tenant_id)
        if newest is None:
            message = "There is no fine-tuned model yet."
            raise NotFound(message, param="adapter", code="model_not_found")
        return newest[1].adapter

    async def list(self, tenant_id: str) -> ModelList:
        """List the base, then the tenant's own models, newest first."""
        async with self.database.read() as session:
            found = await RevisionRepository(session).names(tenant_id)
        own = [
            Model(id=name, object="model", created=created, owned_by=tenant_id)
            for name, created in found
        ]
        return ModelList(object="list", data=[_model(self._base), *own])

    async def retrieve(self, tenant_id: str, model: str) -> Model:
        """Show one model; a short name shows the model that it stands for. Raises NotFound."""
        return _model(await self.resolve(tenant_id, model))

    async def delete(self, tenant_id: str, model: str) -> Deleted:
        """Delete a model by its exact name; its files go with the revision's last name.

        Answers under way keep the files until they have ended.

        Raises NotFound, Forbidden for the base, and Conflict while a job goes on from it or an
        alias names it.
        """
        if model == self.base.name:
            raise Forbidden("The base model cannot be deleted.", param="model")
        async with self.database.write() as session:
            revisions = RevisionRepository(session)
            found = await revisions.find(tenant_id, model)
            if found is None:
                raise model_not_found(model)
            named, revision = found
            last = await revisions.forget(named, revision)
        if last:
            # After the rows: files that no row speaks of are invisible, the reverse is a broken
            # model in the list.
            await self.remover.remove_when_free(
                RevisionRef(tenant_id, revision.adapter, revision.digest)
            )
        return Deleted(id=model, object="model", deleted=True)

    async def _absent(self, tenant_id: str, model: str) -> ServiceError:
        """Say why nothing is called so."""
        async with self.database.read() as session:
            rejected = await _find_rejected(session, tenant_id, model)
        return model_not_found(model) if rejected is None else revision_rejected(rejected)

    async def _number(self, ref: RevisionRef) -> int:
        """Number what was published before there were numbers."""
        async with self.database.write() as session:
            return await EngineIds(session).ensure(ref)

    @cached_property
    def _base(self) -> Target:
        created = int((self.base.path / "config.json").stat().st_mtime)
        return Target(revision=None, model=self.base.name, format="chat", created=created)


async def _find_rejected(session: AsyncSession, tenant_id: str, model: str) -> RevisionRow | None:
    """Find what a name would stand for, if the publish gate had not rejected it."""
    revisions = RevisionRepository(session)
    try:
        name = names.parse(model)
    except names.InvalidModelName:
        return None
    match name:
        case names.FullName(_, tenant, adapter, rev) if tenant == tenant_id:
            return await revisions.rejected(tenant_id, adapter, rev)
        case names.RevisionName(adapter, rev):
            return await revisions.rejected(tenant_id, adapter, rev)
        case names.AdapterName(adapter):
            return await revisions.rejected(tenant_id, adapter)
    return None


def _model(target: Target) -> Model:
    owner = BASE_OWNER if target.revision is None else target.revision.tenant
    return Model(id=target.model, object="model", created=target.created, owned_by=owner)


def model_not_found(model: str, param: str = "model") -> NotFound:
    """Make the one answer to an unknown name and to a foreign one."""
    message = f"The model '{model}' does not exist or you do not have access to it."
    return NotFound(message, param=param, code="model_not_found")
