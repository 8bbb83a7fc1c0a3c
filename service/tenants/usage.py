"""What a tenant used, by day."""

from collections.abc import Collection

from service.database import Database
from service.database.models import UsageRow
from service.tenants.usage_buckets import Used, days_of, page_of
from service.tenants.usage_counters import DAY_SECONDS, Amount
from service.tenants.usage_repository import UsageRepository
from service.tenants.usage_schemas import GroupBy, UsagePage
from service.wire import now


class UsageService:
    """Reads the counters."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        tenant_id: str,
        start: int,
        end: int | None,
        *,
        group_by: Collection[GroupBy] = (),
        limit: int,
        page: str | None = None,
    ) -> UsagePage:
        """Show the days from `start` on, before `end` or now. Raises BadRequest."""
        # The second that is now is used in as well.
        end = max(now() + 1, start + 1) if end is None else end
        days = days_of(start, end, page, limit)
        async with self._database.read() as session:
            usage = UsageRepository(session)
            rows = await usage.between(tenant_id, days[0], days[-1] + DAY_SECONDS)
            made = await usage.revisions(
                tenant_id, [row.digest for row in rows if row.kind == "trained"]
            )
        return page_of((_used(row, made) for row in rows), days, end, group_by)


def _used(row: UsageRow, made: dict[str, str]) -> Used:
    trained = row.kind == "trained"
    return Used(
        day=row.day,
        kind="trained" if trained else "generated",
        amount=Amount(row.requests, row.input_tokens, row.output_tokens),
        api_key_id=row.key_id or None,
        model=row.model,
        adapter=row.adapter or None,
        revision=made.get(row.digest) if trained else row.digest or None,
        job_id=row.digest if trained else None,
    )
