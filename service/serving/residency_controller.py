"""`/v1/admin/residency`: what is resident, pinned by the operator, and loaded beforehand."""

from litestar import Controller, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.http.errors import errors
from service.serving.residency_schemas import Residency, ResidentRevision, SetPinned
from service.serving.residents import ResidencyService
from service.tenants.auth import requires_admin

Residents = NamedDependency[ResidencyService]


class ResidencyController(Controller):
    """Administration: the admin key only."""

    path = "/v1/admin/residency"
    tags = ["Administration"]
    guards = [requires_admin]

    @get(operation_id="getResidency", summary="Show what is resident", responses=errors(503))
    async def get_residency(self, residents: Residents) -> Residency:
        """Show the engine's places for adapters, what is in them, and what is pinned."""
        return await residents.show()

    @put(
        "/{tenant:str}/{adapter:str}/{rev:str}",
        operation_id="pinRevision",
        summary="Pin a revision",
        responses=errors(404, 409),
    )
    async def pin_revision(
        self,
        tenant: FromPath[str],
        adapter: FromPath[str],
        rev: FromPath[str],
        data: JSONBody[SetPinned],
        residents: Residents,
    ) -> ResidentRevision:
        """Keep a revision resident, without requests and over restarts; or no more.

        409 when only one place is left for what is not pinned.
        """
        return await residents.pin(tenant, adapter, rev, data.pinned)

    @post(
        "/{tenant:str}/{adapter:str}/{rev:str}/prefetch",
        operation_id="prefetchTenantsRevision",
        summary="Load a revision before it is called",
        status_code=202,
        responses=errors(404, 409),
    )
    async def prefetch_revision(
        self,
        tenant: FromPath[str],
        adapter: FromPath[str],
        rev: FromPath[str],
        residents: Residents,
    ) -> ResidentRevision:
        """Have a revision loaded as soon as that holds nobody up; the answer tells how it is yet.

        It takes a free place, or that of one that is neither used nor pinned.
        """
        return await residents.prefetch(tenant, adapter, rev)
