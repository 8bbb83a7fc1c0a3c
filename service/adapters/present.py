"""Rows as the objects that clients see."""

from collections.abc import Sequence

import msgspec

from service.adapters.adapters_schemas import (
    Adapter,
    AdapterRevision,
    GateOverride,
    GateReport,
    NewestRevision,
    Parity,
    Retention,
    RetiringRevision,
    RevisionModel,
    ShownRevision,
)
from service.adapters.aliases_repository import targets_of
from service.adapters.aliases_schemas import Alias, AliasTarget
from service.adapters.repository import Named
from service.adapters.retention import Verdict
from service.database.models import AdapterRow, AliasVersionRow, FineTunedModelRow, RevisionRow


def alias_of(row: AliasVersionRow) -> Alias:
    """Show a version of an alias."""
    return Alias(
        object="adapter.alias",
        adapter=row.adapter,
        alias=row.alias,
        version=row.version,
        targets=[AliasTarget(revision=t.digest, weight=t.weight) for t in targets_of(row)],
        reason=row.reason,
        key_id=row.key_id,
        created_at=row.created_at,
    )


def adapter_of(
    row: AdapterRow, newest: Named | None, aliases: Sequence[AliasVersionRow]
) -> Adapter:
    """Show an adapter with its newest result and its aliases."""
    return Adapter(
        id=row.id,
        object="adapter",
        name=row.name,
        created_at=row.created_at,
        newest=_newest(newest),
        aliases=[alias_of(alias) for alias in aliases],
        keep_last=row.keep_last,
    )


def retention_of(adapter: str, keep_last: int | None, verdicts: Sequence[Verdict]) -> Retention:
    """Show what goes of an adapter, and what the rest stays for."""
    data = [
        RetiringRevision(
            revision=verdict.version.digest,
            models=[name.model for name in verdict.version.names],
            goes=not verdict.kept_by,
            kept_by=[*verdict.kept_by],
        )
        for verdict in verdicts
    ]
    return Retention(object="adapter.retention", adapter=adapter, keep_last=keep_last, data=data)


def revision_of(row: RevisionRow, models: Sequence[FineTunedModelRow]) -> AdapterRevision:
    """Show a revision with its callable names."""
    steps = [model.step for model in models] or [(row.gate or {}).get("step")]
    return AdapterRevision(
        id=row.id,
        object="adapter.revision",
        adapter=row.adapter,
        digest=row.digest,
        rev=row.rev,
        models=[RevisionModel(id=m.name, job_id=m.job_id, step=m.step) for m in models],
        created_at=row.created_at,
        job_id=row.job_id,
        step=None if None in steps else steps[0],
        format=row.format,
        status=row.status,  # type: ignore[arg-type]
        gate=None if row.gate is None else msgspec.convert(row.gate, GateReport),
        override=_override(row),
    )


def _override(row: RevisionRow) -> GateOverride | None:
    if row.overridden_at is None or row.override_reason is None:
        return None
    return GateOverride(
        reason=row.override_reason, key_id=row.override_key_id, overridden_at=row.overridden_at
    )


def shown_revision_of(
    row: RevisionRow, models: Sequence[FineTunedModelRow], parity: Parity | None
) -> ShownRevision:
    """Show a revision alone."""
    return ShownRevision(**msgspec.structs.asdict(revision_of(row, models)), parity=parity)


def _newest(found: Named | None) -> NewestRevision | None:
    if found is None:
        return None
    model, revision = found
    return NewestRevision(revision=revision.digest, model=model.name)
