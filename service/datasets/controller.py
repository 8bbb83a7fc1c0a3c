"""`/v1/files`. Every route needs the scope `files`."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from litestar import Controller, Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from service.datasets.forms import FileForm, with_line_faults
from service.datasets.present import file_of, page_of
from service.datasets.receive import Expected, receive
from service.datasets.schemas import (
    ANCHOR,
    SECONDS,
    File,
    FileList,
    Purpose,
    expires_after_of,
    purpose_of,
)
from service.datasets.service import FileService
from service.http.errors import errors
from service.http.sending import in_threads
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT
from service.wire import Deleted

MOST = 10000
SEND_BYTES = 256 * 1024

Files = NamedDependency[FileService]
TenantId = NamedDependency[str]


class FileController(Controller):
    """A tenant's files: datasets, mostly."""

    path = "/v1/files"
    tags = ["files"]
    guards = [requires("files")]

    @post(
        operation_id="createFile",
        operation_class=FileForm,
        responses=with_line_faults(413),
        status_code=200,
        request_max_body_size=None,
        opt={IDEMPOTENT: True},
    )
    async def create_file(
        self, request: Request[Any, Any, Any], tenant_id: TenantId, files: Files
    ) -> File:
        """Upload a file. One with the purpose `fine-tune` is checked line by line: if any line
        cannot be trained on, the answer is 400 `invalid_training_file`, its `errors` say why, and
        nothing is kept.
        """
        await files.expecting(tenant_id)
        with files.folder.temporary() as path:
            content_type = request.headers.get("content-type")
            form = await receive(request.stream(), content_type, {"file": path}, _expected(files))
            file = form.file("file")
            purpose, after = purpose_of(form.fields), expires_after_of(form.fields)
            seconds = None if after is None else after.seconds
            return await files.create(tenant_id, file, purpose, seconds)

    @get(operation_id="listFiles", responses=errors())
    async def list_files(
        self,
        tenant_id: TenantId,
        files: Files,
        purpose: Annotated[
            Purpose | None, QueryParameter(description="Only files with this purpose.")
        ] = None,
        after: Annotated[
            str | None,
            QueryParameter(description="Id of the last file of the page before this one."),
        ] = None,
        limit: Annotated[
            int, QueryParameter(ge=1, le=MOST, description="Most files to give.")
        ] = MOST,
        order: Annotated[
            Literal["asc", "desc"], QueryParameter(description="By creation; newest first: desc.")
        ] = "desc",
    ) -> FileList:
        """List files."""
        rows, has_more = await files.page(
            tenant_id, purpose=purpose, after=after, limit=limit, newest=order == "desc"
        )
        return page_of(rows, has_more)

    @get("/{file_id:str}", operation_id="retrieveFile", responses=errors(404))
    async def retrieve_file(
        self, file_id: FromPath[str], tenant_id: TenantId, files: Files
    ) -> File:
        """Show a file."""
        return file_of(await files.retrieve(tenant_id, file_id))

    @get(
        "/{file_id:str}/content",
        operation_id="downloadFile",
        media_type="application/octet-stream",
        responses=errors(404),
    )
    async def download_file(
        self, file_id: FromPath[str], tenant_id: TenantId, files: Files
    ) -> Stream:
        """Give back the file's bytes, as they were uploaded."""
        file, stream = await files.open(tenant_id, file_id)
        name = quote(file.filename)
        return Stream(
            _chunks(stream),
            media_type="application/octet-stream",
            headers={
                "content-disposition": f"attachment; filename*=utf-8''{name}",
                "content-length": str(file.bytes),
            },
        )

    @delete(
        "/{file_id:str}", operation_id="deleteFile", status_code=200, responses=errors(404, 409)
    )
    async def delete_file(
        self, file_id: FromPath[str], tenant_id: TenantId, files: Files
    ) -> Deleted:
        """Delete a file. One that an unfinished job needs is kept: cancel the job first."""
        await files.delete(tenant_id, file_id)
        return Deleted(id=file_id, object="file", deleted=True)


def _expected(files: FileService) -> Expected:
    return Expected(
        fields=frozenset({"purpose", ANCHOR, SECONDS}),
        max_bytes=files.max_file_bytes,
        limit="the server's LOREHOUSE_MAX_FILE_BYTES",
    )


async def _chunks(stream: BinaryIO) -> AsyncIterator[bytes]:
    with stream:
        async for chunk in in_threads(iter(partial(stream.read, SEND_BYTES), b"")):
            yield chunk
