"""`/v1/adapters/import`, which needs the scope `adapters`."""

from contextlib import ExitStack
from typing import Any

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from service.adapters.imports import CREATED, THERE, ImportService
from service.adapters.imports_form import ImportForm
from service.adapters.imports_schemas import (
    ARCHIVE,
    CONFIG,
    WEIGHTS,
    ImportAdapter,
    ImportedRevision,
)
from service.datasets.receive import Expected, receive
from service.errors import BadRequest
from service.http.errors import describe_fault, errors
from service.tenants.auth import requires
from service.tenants.idempotency import IDEMPOTENT
from service.tenants.principal import Principal

AGAIN = ResponseSpec(
    data_container=ImportedRevision,
    description="The adapter had this revision before.",
    generate_examples=False,
)


class ImportController(Controller):
    """Adapters from elsewhere."""

    path = "/v1/adapters/import"
    tags = ["adapters"]
    guards = [requires("adapters")]

    @post(
        operation_id="importAdapter",
        operation_class=ImportForm,
        responses={THERE: AGAIN, **errors(409, 413, 422, 503)},
        status_code=CREATED,
        request_max_body_size=None,
        opt={IDEMPOTENT: True},
    )
    async def import_adapter(
        self,
        request: Request[Any, Any, Any],
        tenant_id: NamedDependency[str],
        principal: NamedDependency[Principal],
        imports: NamedDependency[ImportService],
    ) -> Response[ImportedRevision]:
        """Bring in a LoRA adapter of this base that was trained elsewhere, or exported here.

        It is checked (400 `invalid_adapter` says what is wrong), tried by the serving engine (422
        `publish_gate_rejected`), and then a revision that can be called; what is refused leaves
        nothing. The same content again is the same revision: 200.
        """
        with ExitStack() as stack:
            places = {
                name: stack.enter_context(imports.folder.temporary())
                for name in (ARCHIVE, CONFIG, WEIGHTS)
            }
            content_type = request.headers.get("content-type")
            form = await receive(request.stream(), content_type, places, _expected(imports))
            shown, is_new = await imports.create(
                tenant_id, form.files, _wish(form.fields), principal.key_id
            )
        return Response(shown, status_code=CREATED if is_new else THERE)


def _expected(imports: ImportService) -> Expected:
    return Expected(
        fields=frozenset(ImportAdapter.__struct_fields__),
        max_bytes=imports.max_bytes,
        limit="the server's LOREHOUSE_MAX_IMPORT_BYTES",
    )


def _wish(fields: dict[str, str]) -> ImportAdapter:
    try:
        return msgspec.convert(fields, ImportAdapter)
    except msgspec.ValidationError as fault:
        detail = describe_fault(str(fault))
        raise BadRequest(detail.message, param=detail.param, code=detail.code) from None
