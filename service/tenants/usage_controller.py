"""`/v1/usage`, which needs the scope `usage`; and the operator's view of any tenant's."""

from typing import Annotated, Literal

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from service.http.errors import errors
from service.tenants.auth import requires, requires_admin
from service.tenants.service import TenantService
from service.tenants.usage import UsageService
from service.tenants.usage_schemas import GroupBy, UsagePage

LATEST = 253_402_300_799
"""The last second of the year 9999."""

Usage = NamedDependency[UsageService]
Start = Annotated[
    int, QueryParameter(ge=0, le=LATEST, description="Unix time; its whole day is shown.")
]
End = Annotated[
    int | None,
    QueryParameter(ge=1, le=LATEST, description="Unix time, exclusive; without it until now."),
]
Width = Annotated[Literal["1d"], QueryParameter(description="Of each bucket: a day, in UTC.")]
Groups = Annotated[list[GroupBy] | None, QueryParameter(description="What results are told by.")]
# As OpenAI's SDKs spell lists.
Bracketed = Annotated[
    list[GroupBy] | None,
    QueryParameter(name="group_by[]", description="The same as `group_by`."),
]
Days = Annotated[int, QueryParameter(ge=1, le=31, description="Most days to give.")]
Page = Annotated[str | None, QueryParameter(description="`next_page` of the page before this one.")]


class UsageController(Controller):
    """A tenant's own usage."""

    path = "/v1/usage"
    tags = ["Usage"]
    guards = [requires("usage")]

    @get(operation_id="getUsage", summary="Show what was used", responses=errors())
    async def get_usage(
        self,
        tenant_id: NamedDependency[str],
        usage: Usage,
        start_time: Start,
        end_time: End = None,
        bucket_width: Width = "1d",  # noqa: ARG002  there is but one
        group_by: Groups = None,
        bracketed: Bracketed = None,
        limit: Days = 7,
        page: Page = None,
    ) -> UsagePage:
        """Show tokens generated and trained, by day, in buckets as OpenAI's usage has them.

        Generated tokens are counted within a second, trained ones with the checkpoints of their
        job: each once, also when a job trains steps again after a crash.
        """
        groups = {*(group_by or ()), *(bracketed or ())}
        return await usage.page(
            tenant_id, start_time, end_time, group_by=groups, limit=limit, page=page
        )


class TenantUsageController(Controller):
    """Administration: the admin key only."""

    path = "/v1/admin/tenants/{tenant:str}/usage"
    tags = ["Administration"]
    guards = [requires_admin]

    @get(operation_id="getTenantUsage", summary="Show what a tenant used", responses=errors(404))
    async def get_tenant_usage(
        self,
        tenant: FromPath[str],
        tenants: NamedDependency[TenantService],
        usage: Usage,
        start_time: Start,
        end_time: End = None,
        bucket_width: Width = "1d",  # noqa: ARG002  there is but one
        group_by: Groups = None,
        bracketed: Bracketed = None,
        limit: Days = 7,
        page: Page = None,
    ) -> UsagePage:
        """Show what a tenant generated and trained, as `GET /v1/usage` shows it to the tenant."""
        await tenants.get(tenant)
        groups = {*(group_by or ()), *(bracketed or ())}
        return await usage.page(
            tenant, start_time, end_time, group_by=groups, limit=limit, page=page
        )
