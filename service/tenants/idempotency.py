"""`Idempotency-Key`: a creating request that is sent again is answered as the first time.

The answer is kept in the transaction that creates the thing, under a UNIQUE constraint: whoever
dies, and however many send the request at once to however many servers, it is created once.
docs/decisions/0020 says why there is no row for what is under way.
"""

from typing import Any, cast

from litestar import Request, Response
from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database import Database, accompanied
from service.database.models import IdempotencyRow
from service.errors import BadRequest, KeyInUse, ServiceError, Unprocessable
from service.telemetry import logger
from service.tenants.body_hash import BodyHash
from service.tenants.deeds import Deed, noted
from service.tenants.idempotency_repository import IdempotencyRepository
from service.tenants.principal import Principal
from service.waiting import every
from service.wire import now

IDEMPOTENT = "idempotent"
"""Handler option: it tells what it `made`, and takes an `Idempotency-Key`."""
HEADER = "idempotency-key"
REPLAYED = {"idempotent-replayed": "true"}
LONGEST = 255
SWEEP_SECONDS = 3600
ERRORS = 400

_STATE = "once"

log = logger(__name__)


class Answers:
    """First answers, of all tenants; and which keys this process has under way."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.under_way: set[tuple[str, str]] = set()

    async def find(self, tenant_id: str, key: str) -> IdempotencyRow | None:
        """Find the answer that was given under a key."""
        async with self.database.read() as session:
            return await IdempotencyRepository(session).find(tenant_id, key)

    async def run(self) -> None:
        """Forget what is too old, now and for ever."""
        await self._sweep()
        await every(SWEEP_SECONDS, self._sweep)

    async def _sweep(self) -> None:
        try:
            async with self.database.write() as session:
                await IdempotencyRepository(session).forget_old()
        except (SQLAlchemyError, ServiceError):
            log.exception("idempotency.not_swept")


class Idempotency:
    """ASGI middleware, inside the door; `replay` does the rest once the guards have passed."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self.app = app
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        once = _once(self.answers, scope)
        if once is None:
            await self.app(scope, receive, send)
            return
        cast("Any", scope)["state"][_STATE] = once
        with noted() as deed, accompanied(once):
            once.deed = deed
            try:
                await self.app(scope, once.hashing(receive), send)
            finally:
                once.close()


async def replay(request: Request[Any, Any, Any]) -> Response[Any] | None:
    """Answer as the first time, before the handler; None when this is the first.

    Raises BadRequest for a bad key, KeyInUse, and Unprocessable for another request's key.
    """
    once: Once | None = request.scope["state"].get(_STATE)
    return None if once is None else await once.replay(request)


class Once:
    """One request under a key."""

    def __init__(
        self, answers: Answers, tenant_id: str, key: str, handler: Any, digest: BodyHash
    ) -> None:
        self._answers = answers
        self._place = (tenant_id, key)
        self._handler = handler
        self._digest = digest
        self._is_mine = self._is_kept = False
        self.deed = Deed()

    def hashing(self, receive: Receive) -> Receive:
        """Take the body's digest while somebody reads it."""

        async def hashed() -> Any:
            message = await receive()
            if message["type"] == "http.request":
                self._digest.update(message.get("body", b""))
            return message

        return hashed

    async def replay(self, request: Request[Any, Any, Any]) -> Response[Any] | None:
        """See `replay`."""
        _check(self._place[1])
        if self._place in self._answers.under_way:
            raise KeyInUse(HEADER)
        self._answers.under_way.add(self._place)
        self._is_mine = True
        first = await self._answers.find(*self._place)
        if first is None:
            return None
        async for _ in request.stream():
            pass
        if first.request_sha256 != self._digest.digest():
            raise Unprocessable(
                "This Idempotency-Key was used for another request: use a new one.",
                param=HEADER,
                code="idempotency_key_reused",
            )
        stay_away = {"x-should-retry": "false"} if first.status >= ERRORS else {}
        return Response(
            first.answer,
            status_code=first.status,
            headers=REPLAYED | stay_away,
            media_type="application/json",
        )

    async def write(self, session: AsyncSession) -> None:
        """Keep what was made, in the transaction that makes it. Raises KeyInUse."""
        if not self._is_mine or self._is_kept or self.deed.answer is None:
            return
        tenant_id, key = self._place
        row = IdempotencyRow(
            tenant_id=tenant_id,
            key=key,
            operation=self._handler.operation_id,
            request_sha256=self._digest.digest(),
            status=self.deed.status or self._handler.status_code,
            answer=self.deed.answer,
            created_at=now(),
        )
        if not await IdempotencyRepository(session).add(row):
            raise KeyInUse(HEADER)

    def committed(self) -> None:
        """Keep nothing more once the answer is kept."""
        self._is_kept = self._is_kept or self.deed.answer is not None

    def rolled_back(self) -> None:
        """Keep nothing of what is not there."""
        if not self._is_kept:
            self.deed.forget()

    def close(self) -> None:
        """Let the key go."""
        if self._is_mine:
            self._answers.under_way.discard(self._place)
        self._is_mine = False


def _once(answers: Answers, scope: Any) -> Once | None:
    if scope["type"] != "http" or not scope["route_handler"].opt.get(IDEMPOTENT):
        return None
    headers, principal = Headers.from_scope(scope), scope.get("user")
    key = headers.get(HEADER)
    if key is None or not isinstance(principal, Principal):
        return None
    about = b"\n".join([scope["method"].encode(), scope["path"].encode(), scope["query_string"]])
    digest = BodyHash(about, headers.get("content-type"))
    # The operator's keys are told apart by the tenant whose things are made.
    tenant_id = principal.tenant_id or scope["path_params"]["tenant"]
    return Once(answers, tenant_id, key, scope["route_handler"], digest)


def _check(key: str) -> None:
    if not 0 < len(key) <= LONGEST:
        raise BadRequest(
            f"An Idempotency-Key has 1 to {LONGEST} characters.",
            param=HEADER,
            code="invalid_idempotency_key",
        )
