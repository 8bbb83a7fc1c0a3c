"""The house's own generation endpoint."""

from typing import Any

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.errors import NotFound
from service.http.errors import errors
from service.http.hanging_up import unless_gone
from service.serving import generate_answers
from service.serving.generate_schemas import Generated, GeneratedPiece, GenerateRequest
from service.serving.generation import Caller
from service.serving.replies import EVENTS, RESPONSE_HEADERS, streamed, whole
from service.serving.service import GenerationService
from service.serving.translate import generate_order, sticky_key
from service.tenants.allowances import Allowance
from service.tenants.audit import CHANGES_NOTHING
from service.tenants.auth import requires
from service.tenants.principal import Principal
from service.tenants.service import TenantService
from service.wire import new_id


class GenerateController(Controller):
    """`/v1/tenants/{tenant}/generate`."""

    path = "/v1/tenants/{tenant:str}/generate"
    tags = ["Generation"]
    guards = [requires("generate", admin=True)]

    @post(
        operation_id="generate",
        summary="Answer with one of the tenant's adapters",
        status_code=200,
        responses=errors(404, 409, 503),
        response_headers=RESPONSE_HEADERS,
        opt={CHANGES_NOTHING: True, EVENTS: GeneratedPiece},
    )
    async def generate(
        self,
        request: Request[Any, Any, Any],
        tenant: FromPath[str],
        data: JSONBody[GenerateRequest],
        principal: NamedDependency[Principal],
        tenants: NamedDependency[TenantService],
        generation: NamedDependency[GenerationService],
        allowance: NamedDependency[Allowance],
    ) -> Response[Generated]:
        """Answer with an adapter of the tenant: the newest one, unless another is named.

        The tenant is the key's own; the admin key may call any. With `stream: true` the answer is
        a stream of pieces that ends with `data: [DONE]`; an error after the first piece is an
        event that carries the error body, and ends the stream.
        """
        weight = await _weight(tenant, principal, tenants)
        order = generate_order(data)
        target = await generation.adapter(tenant, data.adapter, sticky_key(data))
        caller = Caller(tenant, principal.key_id, weight, allowance)
        run = await generation.start(new_id("gen-"), caller, target, order)
        if data.stream:
            return streamed(run, generate_answers.events(run))
        [choice] = await unless_gone(request, run.collect())
        return whole(run, generate_answers.generated(run, choice))


async def _weight(tenant: str, principal: Principal, tenants: TenantService) -> float:
    """Give the tenant's weight to who may call it; raises NotFound to others."""
    if principal.is_admin:
        return (await tenants.present(tenant)).weight
    if principal.tenant_id != tenant:
        # Word for word what an unknown tenant gets: which tenants there are is nobody's business.
        raise NotFound(f"No such tenant: '{tenant}'.", param="tenant")
    return principal.weight
