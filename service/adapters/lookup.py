"""From a model's name to its revision: one statement for each form of a name.

Every request asks. One statement sees one state, so that an alias that moves meanwhile is followed
as it was or as it will be, never halfway; and it is one trip, with no transaction around it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    func,
    null,
    select,
    union_all,
)

from service.adapters import names
from service.adapters.aliases_schemas import MOST_TARGETS
from service.adapters.repository import is_callable, is_revision
from service.adapters.weights import WeightedTarget, choose
from service.database import Database
from service.database.models import AliasVersionRow, EngineIdRow, FineTunedModelRow, RevisionRow

_TENANT: BindParameter[str] = bindparam("tenant")
_ADAPTER: BindParameter[str] = bindparam("adapter")
_ALIAS: BindParameter[str] = bindparam("alias")


async def look_up(
    database: Database, tenant_id: str, model: str, sticky: str | None
) -> Row[Any] | None:
    """Find what a tenant may call by a name, the base's excepted.

    The row has the model's `name` and `created_at`, the revision's `tenant_id`, `adapter`, `digest`
    and `format`, and its `engine_id` if it has one yet. `sticky` picks among an alias's targets.
    """
    try:
        statement, given = _question(names.parse(model), model)
    except names.InvalidModelName:
        return None
    return _pick(await database.ask(statement, {"tenant": tenant_id, **given}), sticky)


def _question(name: names.ModelRef, model: str) -> tuple[Any, dict[str, str]]:
    match name:
        case names.FullName():
            return _FULL, {"name": model}
        case names.RevisionName(adapter, rev):
            return _REVISION, {"adapter": adapter, "rev": rev}
        case names.AliasName(adapter, alias):
            return _ALIASED, {"adapter": adapter, "alias": alias}
        case names.AdapterName(adapter):
            return _CURRENT, {"adapter": adapter, "alias": names.DEFAULT_ALIAS}


def _pick(rows: Sequence[Row[Any]], sticky: str | None) -> Row[Any] | None:
    """Choose the target first, then its name: a result's if it has one, and the newest."""
    if rows and rows[0].targets is not None:
        targets = msgspec.convert(rows[0].targets, list[WeightedTarget])
        digest = choose(targets, sticky)
        rows = [row for row in rows if row.digest == digest]
    return max(rows, key=lambda row: (row.step is None, row.seq), default=None)


def _called(targets: ColumnElement[Any]) -> Select[Any]:
    model, revision, number = FineTunedModelRow, RevisionRow, EngineIdRow
    same = (
        getattr(number, of) == getattr(revision, of) for of in ("tenant_id", "adapter", "digest")
    )
    return (
        select(model.name, model.created_at, model.step, model.seq)
        .add_columns(revision.tenant_id, revision.adapter, revision.digest, revision.format)
        .add_columns(number.id.label("engine_id"), targets.label("targets"))
        .select_from(model)
        .join(revision, revision.id == model.revision_id)
        .outerjoin(number, and_(*same))
        .where(model.tenant_id == _TENANT, revision.tenant_id == _TENANT, is_callable())
    )


def _aliased() -> Select[Any]:
    digests = [_NOW.c.targets[place, "digest"].as_string() for place in range(MOST_TARGETS)]
    of_adapter = RevisionRow.adapter == _ADAPTER
    return _called(_NOW.c.targets).where(of_adapter, RevisionRow.digest.in_(digests))


def _newest() -> Select[Any]:
    """Find an adapter's latest result, where no alias says otherwise."""
    newest = (
        select(func.max(FineTunedModelRow.seq))
        .join(RevisionRow, RevisionRow.id == FineTunedModelRow.revision_id)
        .where(RevisionRow.tenant_id == _TENANT, RevisionRow.adapter == _ADAPTER)
        .where(FineTunedModelRow.step.is_(None), is_callable())
    )
    unaliased = ~select(_NOW.c.targets).where(_NOW.c.targets.is_not(None)).exists()
    return _called(null()).where(FineTunedModelRow.seq == newest.scalar_subquery(), unaliased)


_NOW = (
    select(AliasVersionRow.targets)
    .where(AliasVersionRow.tenant_id == _TENANT, AliasVersionRow.adapter == _ADAPTER)
    .where(AliasVersionRow.alias == _ALIAS)
    .order_by(AliasVersionRow.version.desc())
    .limit(1)
    .subquery()
)
_FULL = _called(null()).where(FineTunedModelRow.name == bindparam("name"))
_REVISION = _called(null()).where(RevisionRow.adapter == _ADAPTER, is_revision(bindparam("rev")))
_ALIASED = _aliased()
_CURRENT = union_all(_aliased(), _newest())
