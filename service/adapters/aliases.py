"""Moving names: every change names the version that it was made for, and becomes a version."""

from collections.abc import Sequence
from operator import attrgetter

import msgspec

from adapters_store import RevisionRef
from service.adapters import names
from service.adapters.adapters import Prefetch
from service.adapters.adapters_repository import AdapterRepository
from service.adapters.aliases_repository import AliasRepository, targets_of
from service.adapters.aliases_schemas import (
    Alias,
    AliasHistory,
    AliasList,
    MoveAlias,
    TargetChoice,
)
from service.adapters.missing import adapter_not_found, alias_not_found, revision_not_found
from service.adapters.preconditions import IF_MATCH, IF_NONE_MATCH, NOTHING
from service.adapters.present import alias_of
from service.adapters.rejected import revision_rejected
from service.adapters.repository import RevisionRepository
from service.adapters.weights import WeightedTarget
from service.database import Database
from service.database.models import AliasVersionRow
from service.errors import BadRequest, Conflict, PreconditionFailed
from service.wire import page


class AliasService:
    """A tenant's aliases. Everything raises NotFound alike for unknown and for foreign names."""

    def __init__(self, database: Database, prefetch: Prefetch) -> None:
        self.database = database
        self._prefetch = prefetch

    async def retrieve(self, tenant_id: str, adapter: str, alias: str) -> Alias:
        """Show what an alias names now."""
        async with self.database.read() as session:
            row = await AliasRepository(session).current(tenant_id, adapter, alias)
        if row is None:
            raise alias_not_found(adapter, alias)
        return alias_of(row)

    async def list(self, tenant_id: str, adapter: str, after: str | None, limit: int) -> AliasList:
        """List an adapter's aliases by name."""
        async with self.database.read() as session:
            if await AdapterRepository(session).find(tenant_id, adapter) is None:
                raise adapter_not_found(adapter)
            aliases = AliasRepository(session)
            rows = await aliases.of_adapters(tenant_id, [adapter], after, limit + 1)
        data = [alias_of(row) for row in rows[:limit]]
        more = len(rows) > limit
        return page(AliasList, data, has_more=more, id_of=attrgetter("alias"))

    async def history(
        self, tenant_id: str, adapter: str, alias: str, after: str | None, limit: int
    ) -> AliasHistory:
        """List an alias's versions, newest first; `after` is a version."""
        before = _number(after)
        async with self.database.read() as session:
            aliases = AliasRepository(session)
            if await aliases.version(tenant_id, adapter, alias) is None:
                raise alias_not_found(adapter, alias)
            rows = await aliases.history(tenant_id, adapter, alias, before, limit + 1)
        data = [alias_of(row) for row in rows[:limit]]
        more = len(rows) > limit
        return page(AliasHistory, data, has_more=more, id_of=lambda one: str(one.version))

    async def move(
        self,
        tenant_id: str,
        adapter: str,
        alias: str,
        body: MoveAlias,
        *,
        expected: int,
        key_id: str | None,
    ) -> Alias:
        """Make an alias name these targets, if it still is at the version `expected`.

        Raises BadRequest, PreconditionFailed when it is not, and Conflict for a rejected revision.
        """
        if not names.is_alias(alias):
            message = f"An alias matches ^{names.PATTERN}$ and does not read as a revision."
            raise BadRequest(message, param="alias")
        async with self.database.write() as session:
            aliases = AliasRepository(session)
            await _lock(aliases, tenant_id, adapter)
            _require(await aliases.current(tenant_id, adapter, alias), expected)
            targets = await _targets(RevisionRepository(session), tenant_id, adapter, body.targets)
            row = await aliases.add(
                tenant_id, adapter, alias, targets, key_id=key_id, reason=body.reason
            )
        self._prefetch(_refs(row))
        return alias_of(row)

    async def delete(
        self,
        tenant_id: str,
        adapter: str,
        alias: str,
        *,
        expected: int,
        key_id: str | None,
        reason: str | None,
    ) -> None:
        """Delete an alias, if it still is at the version `expected`; its history stays.

        Raises PreconditionFailed when it is not.
        """
        async with self.database.write() as session:
            aliases = AliasRepository(session)
            row = await _held(aliases, tenant_id, adapter, alias)
            _require(row, expected)
            await aliases.add(tenant_id, adapter, alias, None, key_id=key_id, reason=reason)

    async def roll_back(
        self,
        tenant_id: str,
        adapter: str,
        alias: str,
        *,
        expected: int | None,
        key_id: str | None,
        reason: str,
    ) -> Alias:
        """Make an alias name what it named one version before; that is a new version.

        Raises PreconditionFailed unless it is at the version `expected`, if that is given, and
        Conflict when it named nothing then, or when a revision that it named is gone.
        """
        async with self.database.write() as session:
            aliases = AliasRepository(session)
            row = await _held(aliases, tenant_id, adapter, alias)
            if expected is not None:
                _require(row, expected)
            before = await aliases.version(tenant_id, adapter, alias, row.version - 1)
            targets = [] if before is None else targets_of(before)
            await _require_there(RevisionRepository(session), row, targets)
            row = await aliases.add(
                tenant_id, adapter, alias, targets, key_id=key_id, reason=reason
            )
        self._prefetch(_refs(row))
        return alias_of(row)


def _refs(row: AliasVersionRow) -> list[RevisionRef]:
    """Give what an alias names, the target with the greatest weight last."""
    targets = sorted(targets_of(row), key=lambda target: target.weight)
    return [RevisionRef(row.tenant_id, row.adapter, target.digest) for target in targets]


async def _lock(aliases: AliasRepository, tenant_id: str, adapter: str) -> None:
    if not await aliases.lock(tenant_id, adapter):
        raise adapter_not_found(adapter)


async def _held(
    aliases: AliasRepository, tenant_id: str, adapter: str, alias: str
) -> AliasVersionRow:
    """Find an alias, which nobody else changes before the transaction ends."""
    await _lock(aliases, tenant_id, adapter)
    row = await aliases.current(tenant_id, adapter, alias)
    if row is None:
        raise alias_not_found(adapter, alias)
    return row


def _require(row: AliasVersionRow | None, expected: int) -> None:
    """Raise PreconditionFailed, with the current state, unless the alias is at that version."""
    version = NOTHING if row is None else row.version
    if version == expected:
        return
    current = None if row is None else msgspec.to_builtins(alias_of(row))
    message = "There is no such alias." if row is None else f"The alias is at version {version}."
    param = IF_NONE_MATCH if expected == NOTHING else IF_MATCH
    raise PreconditionFailed(message, param=param, current=current)


async def _targets(
    revisions: RevisionRepository, tenant_id: str, adapter: str, chosen: Sequence[TargetChoice]
) -> list[WeightedTarget]:
    targets: dict[str, WeightedTarget] = {}
    for place, choice in enumerate(chosen):
        param = f"targets[{place}].revision"
        found = await revisions.revision(tenant_id, adapter, choice.revision)
        if rejected := await revisions.rejected(tenant_id, adapter, choice.revision):
            raise revision_rejected(rejected, param)
        # Held, so that it cannot be deleted before this transaction says that it is needed.
        if found is None or not await revisions.hold(tenant_id, adapter, found[1].digest):
            raise revision_not_found(adapter, choice.revision, param)
        digest = found[1].digest
        if digest in targets:
            raise BadRequest("Two targets are the same revision.", param=param)
        targets[digest] = WeightedTarget(digest, choice.weight)
    return list(targets.values())


async def _require_there(
    revisions: RevisionRepository, row: AliasVersionRow, targets: Sequence[WeightedTarget]
) -> None:
    if not targets:
        message = f"The alias '{row.adapter}@{row.alias}' named nothing before: see its history."
        raise Conflict(message, param="alias", code="nothing_to_roll_back_to")
    for target in targets:
        if not await revisions.hold(row.tenant_id, row.adapter, target.digest):
            message = f"The revision {target.digest} was deleted since the alias named it."
            raise Conflict(message, param="alias", code="revision_deleted")


def _number(after: str | None) -> int | None:
    if after is None:
        return None
    if not (after.isascii() and after.isdecimal() and len(after) < 10):
        raise BadRequest("A page of versions begins after a version.", param="after")
    return int(after)
