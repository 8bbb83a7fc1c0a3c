"""`/v1/uploads`. Every route needs the scope `files`."""

from typing import Any

from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.datasets.forms import PartForm, with_line_faults
from service.datasets.present import upload_of
from service.datasets.receive import Expected, receive
from service.datasets.uploads import MAX_PART_BYTES, UploadService
from service.datasets.uploads_schemas import CompleteUpload, CreateUpload, Upload, UploadPart
from service.http.errors import errors
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT

PART = Expected(
    fields=frozenset(),
    max_bytes=MAX_PART_BYTES,
    limit="the most that one part may have",
)

Uploads = NamedDependency[UploadService]
TenantId = NamedDependency[str]


class UploadController(Controller):
    """Files that arrive in parts."""

    path = "/v1/uploads"
    tags = ["uploads"]
    guards = [requires("files")]

    @post(
        operation_id="createUpload",
        status_code=200,
        responses=errors(413),
        opt={IDEMPOTENT: True},
    )
    async def create_upload(
        self, data: JSONBody[CreateUpload], tenant_id: TenantId, uploads: Uploads
    ) -> Upload:
        """Announce a file that will arrive in parts. It expires after an hour."""
        return await uploads.create(tenant_id, data)

    @post(
        "/{upload_id:str}/parts",
        operation_id="createUploadPart",
        operation_class=PartForm,
        status_code=200,
        request_max_body_size=None,
        opt={IDEMPOTENT: True},
        responses=errors(404, 409, 413),
    )
    async def create_part(
        self,
        upload_id: FromPath[str],
        request: Request[Any, Any, Any],
        tenant_id: TenantId,
        uploads: Uploads,
    ) -> UploadPart:
        """Add a part. Parts may arrive at the same time and in any order."""
        await uploads.expecting(tenant_id, upload_id)
        with uploads.folder.temporary() as path:
            content_type = request.headers.get("content-type")
            form = await receive(request.stream(), content_type, {"data": path}, PART)
            return await uploads.add_part(tenant_id, upload_id, form.file("data"))

    @post(
        "/{upload_id:str}/complete",
        operation_id="completeUpload",
        status_code=200,
        responses=with_line_faults(404, 409),
    )
    async def complete_upload(
        self,
        upload_id: FromPath[str],
        data: JSONBody[CompleteUpload],
        tenant_id: TenantId,
        uploads: Uploads,
    ) -> Upload:
        """Put the parts together in the order given. The file is checked as in `createFile`."""
        return upload_of(*await uploads.complete(tenant_id, upload_id, data))

    @post(
        "/{upload_id:str}/cancel",
        operation_id="cancelUpload",
        status_code=200,
        responses=errors(404, 409),
    )
    async def cancel_upload(
        self, upload_id: FromPath[str], tenant_id: TenantId, uploads: Uploads
    ) -> Upload:
        """Cancel an upload. Its parts are dropped, and it takes no more."""
        return upload_of(await uploads.cancel(tenant_id, upload_id), None)
