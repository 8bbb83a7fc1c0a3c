"""`/v1/adapters/merges`, and where they are asked for. Every route needs the scope `adapters`."""

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from service.adapters.aliases_controller import After, Limit
from service.adapters.merges import MergeService
from service.adapters.merges_schemas import CreateMerge, Merge, MergeList
from service.http.errors import errors
from service.http.sending import in_threads
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT
from service.wire import Deleted

TAR = "application/x-tar"

Merges = NamedDependency[MergeService]
TenantId = NamedDependency[str]


class MergeController(Controller):
    """Revisions merged into the base, as models that need no adapter."""

    path = "/v1/adapters"
    tags = ["adapters"]
    guards = [requires("adapters")]

    @post(
        "/{adapter:str}/revisions/{rev:str}/merge",
        operation_id="createMerge",
        status_code=202,
        opt={IDEMPOTENT: True},
        responses=errors(404, 409),
    )
    async def create_merge(
        self,
        adapter: FromPath[str],
        rev: FromPath[str],
        data: JSONBody[CreateMerge],
        tenant_id: TenantId,
        merges: Merges,
    ) -> Merge:
        """Merge a revision into the base's 16-bit weights. It is queued at once."""
        return await merges.create(tenant_id, adapter, rev, data)

    @get("/merges", operation_id="listMerges", responses=errors())
    async def list_merges(
        self, tenant_id: TenantId, merges: Merges, after: After = None, limit: Limit = 20
    ) -> MergeList:
        """List merges, newest first."""
        return await merges.list(tenant_id, after, limit)

    @get("/merges/{merge:str}", operation_id="retrieveMerge", responses=errors(404))
    async def retrieve_merge(
        self, merge: FromPath[str], tenant_id: TenantId, merges: Merges
    ) -> Merge:
        """Show a merge: how far it is, and what came of it."""
        return await merges.retrieve(tenant_id, merge)

    @post(
        "/merges/{merge:str}/cancel",
        operation_id="cancelMerge",
        status_code=200,
        responses=errors(404, 409),
    )
    async def cancel_merge(
        self, merge: FromPath[str], tenant_id: TenantId, merges: Merges
    ) -> Merge:
        """Cancel a merge. Nothing of it is kept."""
        return await merges.cancel(tenant_id, merge)

    @get(
        "/merges/{merge:str}/result",
        operation_id="downloadMerge",
        media_type=TAR,
        responses=errors(404, 409, 503),
    )
    async def download_merge(
        self, merge: FromPath[str], tenant_id: TenantId, merges: Merges
    ) -> Stream:
        """Give the merged model as a tar of a Hugging Face folder: always the same bytes.

        Every file's digest is verified on the way: what was changed ends the answer before its
        `content-length`.
        """
        archive = await merges.result(tenant_id, merge)
        return Stream(
            in_threads(archive.blocks()),
            media_type=TAR,
            headers={
                "content-disposition": f'attachment; filename="{merge}.tar"',
                "content-length": str(archive.size),
                "x-lorehouse-revision": archive.model.manifest.ref.digest,
            },
        )

    @delete(
        "/merges/{merge:str}",
        operation_id="deleteMerge",
        status_code=200,
        responses=errors(404, 409),
    )
    async def delete_merge(
        self, merge: FromPath[str], tenant_id: TenantId, merges: Merges
    ) -> Deleted:
        """Delete a merge that has ended, with its files."""
        return await merges.delete(tenant_id, merge)
