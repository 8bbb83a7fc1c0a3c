"""The audit: one line for every request that may change something, by whoever was let in.

The line is written in the transaction of the change, with the status that a success has, so that
there is no change without its line; before the answer goes out the status is put right if it is
another. docs/decisions/0020 says what a kill in between leaves.
"""

from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database, accompanied
from service.database.models import AuditRow
from service.errors import ServiceError
from service.http.exchange import current
from service.telemetry import logger
from service.tenants.audit_repository import AuditRepository
from service.tenants.deeds import Deed, noted
from service.tenants.principal import Principal
from service.wire import new_id, now

CHANGES_NOTHING = "changes_nothing"
"""Handler option of a POST that only asks; generation is in the usage instead."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
TOO_MANY = 429

log = logger(__name__)


class Audit:
    """ASGI middleware, inside the door: who is asking is known."""

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self.app = app
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_change(scope):
            await self.app(scope, receive, send)
            return
        with noted() as deed:
            line = _Line(self.database, scope, deed)
            with accompanied(line):
                await self.app(scope, receive, line.before(send))


class _Line:
    """One request's line."""

    def __init__(self, database: Database, scope: Any, deed: Deed) -> None:
        self._database = database
        self._scope = scope
        self._deed = deed
        self._id = new_id("audit_")
        self._presumed: int | None = None
        self._is_written = self._is_settled = False

    async def write(self, session: AsyncSession) -> None:
        if self._is_written or self._is_settled:
            return
        status = self._deed.status or self._scope["route_handler"].status_code
        # Of a secret it is what later requests get.
        self._presumed = self._scope["route_handler"].status_code if status >= 400 else status
        await self._add(session, self._presumed)

    def committed(self) -> None:
        self._is_written = self._presumed is not None

    def rolled_back(self) -> None:
        if not self._is_written:
            self._presumed = None
            self._deed.forget()

    def before(self, send: Send) -> Send:
        """Settle the line before the answer begins."""

        async def settled(message: Message) -> None:
            if message["type"] == "http.response.start" and not self._is_settled:
                self._is_settled = True
                await self._settle(int(message["status"]))
            await send(message)

        return settled

    async def _settle(self, status: int) -> None:
        if self._is_written and status == self._presumed:
            return
        # Who asks too often is not let in, and must not fill the disk.
        if not self._is_written and status == TOO_MANY:
            return
        try:
            async with self._database.upkeep() as session:
                if self._is_written:
                    await AuditRepository(session).correct(self._id, status)
                else:
                    await self._add(session, status)
        except (SQLAlchemyError, ServiceError, OSError):
            # Nothing was changed in the database, or the line is there: the answer stands.
            log.exception("audit.not_written", **self._facts(), status=status)

    async def _add(self, session: AsyncSession, status: int) -> None:
        await AuditRepository(session).add(
            AuditRow(id=self._id, status=status, created_at=now(), **self._facts())
        )

    def _facts(self) -> dict[str, Any]:
        principal: Principal = self._scope["user"]
        target = dict(self._scope["path_params"])
        made = {} if self._deed.created is None else {"created": self._deed.created}
        return {
            "tenant_id": principal.tenant_id or target.get("tenant"),
            "key_id": principal.key_id,
            "operation": self._scope["route_handler"].operation_id,
            "target": target | made,
            "request_id": current(self._scope).request_id,
        }


def _is_change(scope: Any) -> bool:
    return (
        scope["type"] == ScopeType.HTTP
        and scope["method"] not in SAFE
        and isinstance(scope.get("user"), Principal)
        and not scope["route_handler"].opt.get(CHANGES_NOTHING)
    )
