"""`/v1/adapters`. Every route needs the scope `adapters`."""

from collections.abc import AsyncIterator
from contextlib import closing
from typing import Annotated

from litestar import Controller, get, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream

from adapters_store.export import Archive
from service.adapters import adapters_schemas as schemas
from service.adapters.adapters import AdapterService
from service.adapters.adapters_schemas import (
    MOST_KEPT,
    Adapter,
    AdapterList,
    AdapterRevisionList,
    Lineage,
    PrefetchedRevision,
    ShownRevision,
    UpdateAdapter,
)
from service.adapters.aliases_controller import After, Limit
from service.adapters.present import retention_of
from service.adapters.retaining import Retention
from service.http.errors import errors
from service.http.sending import in_threads
from service.tenants.auth import requires

TAR = "application/x-tar"
ETAG = ResponseHeader(
    name="etag", description="sha256 of its manifest.json.", documentation_only=True
)

Adapters = NamedDependency[AdapterService]
TenantId = NamedDependency[str]
KeepLast = Annotated[
    int | None, QueryParameter(ge=1, le=MOST_KEPT, description="As if it were this; else its own.")
]


class AdapterController(Controller):
    """A tenant's adapters, and their revisions."""

    path = "/v1/adapters"
    tags = ["adapters"]
    guards = [requires("adapters")]

    @get(operation_id="listAdapters", responses=errors())
    async def list_adapters(
        self, tenant_id: TenantId, adapters: Adapters, after: After = None, limit: Limit = 20
    ) -> AdapterList:
        """List adapters, newest first, each with its newest revision and its aliases."""
        return await adapters.list(tenant_id, after, limit)

    @get("/{adapter:str}", operation_id="retrieveAdapter", responses=errors(404))
    async def retrieve_adapter(
        self, adapter: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> Adapter:
        """Show an adapter."""
        return await adapters.retrieve(tenant_id, adapter)

    @post("/{adapter:str}", operation_id="updateAdapter", responses=errors(404), status_code=200)
    async def update_adapter(
        self,
        adapter: FromPath[str],
        data: JSONBody[UpdateAdapter],
        tenant_id: TenantId,
        adapters: Adapters,
        retention: NamedDependency[Retention],
    ) -> Adapter:
        """Set how many of the newest results an adapter keeps. The collector does the rest."""
        await retention.limit(tenant_id, adapter, data.keep_last)
        return await adapters.retrieve(tenant_id, adapter)

    @get("/{adapter:str}/retention", operation_id="previewRetention", responses=errors(404))
    async def preview_retention(
        self,
        adapter: FromPath[str],
        tenant_id: TenantId,
        retention: NamedDependency[Retention],
        keep_last: KeepLast = None,
    ) -> schemas.Retention:
        """Show what the collector lets go of, and what the others are kept for; changes nothing."""
        limit, verdicts = await retention.preview(tenant_id, adapter, keep_last)
        return retention_of(adapter, limit, verdicts)

    @get("/{adapter:str}/revisions", operation_id="listRevisions", responses=errors(404))
    async def list_revisions(
        self,
        adapter: FromPath[str],
        tenant_id: TenantId,
        adapters: Adapters,
        after: After = None,
        limit: Limit = 20,
    ) -> AdapterRevisionList:
        """List an adapter's revisions, newest first, checkpoints included."""
        return await adapters.revisions(tenant_id, adapter, after, limit)

    @get(
        "/{adapter:str}/revisions/{rev:str}", operation_id="retrieveRevision", responses=errors(404)
    )
    async def retrieve_revision(
        self, adapter: FromPath[str], rev: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> ShownRevision:
        """Show a revision, by its short name or its whole digest, and how it compares with what
        runs here.
        """
        return await adapters.revision(tenant_id, adapter, rev)

    @post(
        "/{adapter:str}/revisions/{rev:str}/prefetch",
        operation_id="prefetchRevision",
        status_code=202,
        responses=errors(404, 409),
    )
    async def prefetch_revision(
        self, adapter: FromPath[str], rev: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> PrefetchedRevision:
        """Have a revision loaded before it is called, so that the first answer is quick.

        It takes a free place, or that of one that nobody uses, once nobody is held up by that. A
        revision that is not prefetched is loaded when it is called.
        """
        return await adapters.prefetch(tenant_id, adapter, rev)

    @get(
        "/{adapter:str}/revisions/{rev:str}/lineage",
        operation_id="retrieveLineage",
        responses=errors(404),
    )
    async def retrieve_lineage(
        self, adapter: FromPath[str], rev: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> Lineage:
        """Walk back from a revision to its job, its datasets and its parents, and on to theirs."""
        return await adapters.lineage(tenant_id, adapter, rev)

    @get(
        "/{adapter:str}/revisions/{rev:str}/export",
        operation_id="exportRevision",
        media_type=TAR,
        responses=errors(404, 409),
        response_headers=[ETAG],
    )
    async def export_revision(
        self, adapter: FromPath[str], rev: FromPath[str], tenant_id: TenantId, adapters: Adapters
    ) -> Stream:
        """Give a revision as a tar of PEFT's two files and manifest.json: always the same bytes.

        Its digests are verified before the first byte is sent.
        """
        archive = await adapters.export(tenant_id, adapter, rev)
        ref = archive.revision.ref
        return Stream(
            _sent(archive),
            media_type=TAR,
            headers={
                "content-disposition": f'attachment; filename="{ref.adapter}-{rev[:8]}.tar"',
                "content-length": str(archive.size),
                "etag": f'"{archive.tag}"',
                "x-lorehouse-revision": ref.digest,
            },
        )


async def _sent(archive: Archive) -> AsyncIterator[bytes]:
    # Who holds on to the archive holds on to the revision's files.
    with closing(archive):
        async for chunk in in_threads(archive.chunks()):
            yield chunk
