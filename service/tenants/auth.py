"""Keys at the door: who is asking (401), and whether they may (403).

A scope opens the routes of its tenant, never another tenant's. The scope `admin` on a tenant's
key opens its own administration, `/v1/keys`, `/v1/limits` and its audit; `/v1/admin` belongs to
the operator's admin key alone.
"""

import asyncio
from typing import Any, Protocol

import structlog
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Guard, Message, Receive, Send
from litestar.types import Scope as AsgiScope

from service.errors import Forbidden, Unauthenticated
from service.http.exchange import current
from service.http.in_flight import InFlight
from service.tenants.allowances import Allowance, Limiter
from service.tenants.principal import Principal, Scope

Connection = ASGIConnection[Any, Principal, Any, Any]
# By the matched route's template: there is no spelling of a path that gets around it.
API = "/v1/"
METRICS = "/metrics"
SCOPE_MARK = "required_scope"
ALLOWANCE = "allowance"


class Authenticator(Protocol):
    """Tells whose key it is."""

    async def authenticate(self, key: str) -> Principal:
        """Find the key's holder; raises Unauthenticated when it is wrong or revoked."""
        ...


class Authentication:
    """ASGI middleware: no request gets past it into the protected routes without a good key."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        in_flight: InFlight,
        limiter: Limiter,
        *,
        metrics_public: bool = False,
    ) -> None:
        self.app = app
        self.authenticator = authenticator
        self.in_flight = in_flight
        self.limiter = limiter
        self.protected = API if metrics_public else (API, METRICS)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and _template(scope).startswith(self.protected):
            principal = await self.authenticator.authenticate(bearer(scope))
            scope["user"] = principal
            current(scope).tenant = principal.tenant_id
            # Ends with the request's other marks, at the edge.
            structlog.contextvars.bind_contextvars(tenant=principal.tenant_id)
            # The operator's own requests concern the tenant that the path names, if any.
            tenant_id = principal.tenant_id or scope["path_params"].get("tenant")
            if tenant_id is not None:
                await self._answer_for(tenant_id, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer_for(
        self, tenant_id: str, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        exchange = current(scope)
        with self.in_flight.entered(tenant_id, scope["user"].key_id, exchange):
            try:
                await self._answer_within(tenant_id, scope, receive, send)
            except asyncio.CancelledError:
                if exchange.cut is not None and exchange.status is None:
                    raise exchange.cut from None
                raise

    async def _answer_within(
        self, tenant_id: str, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        """Answer within the tenant's rate limits; the operator's own requests have none."""
        allowance = Allowance(self.limiter, tenant_id, scope["user"].limits)
        await allowance.request()
        scope["state"][ALLOWANCE] = allowance
        try:
            await self.app(scope, receive, _telling(send, allowance))
        finally:
            await allowance.end(0, 0)


def _telling(send: Send, allowance: Allowance) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableScopeHeaders.from_message(message)
            for name, value in allowance.headers.items():
                headers[name] = value
        await send(message)

    return tell


def _template(scope: AsgiScope) -> str:
    return str(scope["path_template"])


def bearer(scope: AsgiScope) -> str:
    """Read the key off the Authorization header; raises Unauthenticated when there is none."""
    scheme, _, key = Headers.from_scope(scope).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated(
            "You didn't provide an API key. Send it in the Authorization header: "
            "'Authorization: Bearer YOUR_KEY'."
        )
    return key.strip()


def requires(scope: Scope, *, admin: bool = False) -> Guard:
    """Make a guard for a key with this scope; `admin` lets the admin key in as well."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        principal = connection.user
        if principal.is_admin:
            if not admin:
                raise _no_tenant()
        elif scope not in principal.scopes:
            raise Forbidden(f"This API key lacks the scope '{scope}'.")

    setattr(guard, SCOPE_MARK, scope)
    return guard


async def requires_admin(connection: Connection, _: BaseRouteHandler) -> None:
    """Let only the admin key in."""
    if not connection.user.is_admin:
        raise Forbidden("This needs the admin key.")


setattr(requires_admin, SCOPE_MARK, "admin")


async def provide_principal(request: Request[Principal, Any, Any]) -> Principal:
    """Give handlers `principal`."""
    return request.user


async def provide_allowance(request: Request[Principal, Any, Any]) -> Allowance:
    """Give handlers `allowance`, what the request may take of its tenant's rate limits."""
    return allowance_of(request)


async def provide_tenant_id(request: Request[Principal, Any, Any]) -> str:
    """Give handlers `tenant_id`; the admin key has none and gets Forbidden."""
    return tenant_of(request)


def allowance_of(request: Request[Principal, Any, Any]) -> Allowance:
    """Find what the request may take of its tenant's rate limits."""
    allowance: Allowance = request.scope["state"][ALLOWANCE]
    return allowance


def tenant_of(request: Request[Principal, Any, Any]) -> str:
    """Find whose request it is; raises Forbidden for the admin key's."""
    if request.user.tenant_id is None:
        raise _no_tenant()
    return request.user.tenant_id


def _no_tenant() -> Forbidden:
    return Forbidden("The admin key belongs to no tenant: use a tenant's key here.")
