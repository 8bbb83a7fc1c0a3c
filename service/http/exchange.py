"""What is known of one request while it is answered; kept in the ASGI scope's state."""

import re
import secrets
from typing import Any

import msgspec

from service.errors import ServiceError

SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_KEY = "exchange"


class Exchange(msgspec.Struct):
    """One request and its answer."""

    request_id: str
    tenant: str | None = None
    status: int | None = None
    """None until the answer has begun."""
    gone: bool = False
    """The client hung up before the answer began."""
    cut: ServiceError | None = None
    """Why somebody ended it."""


def request_id(given: str | None) -> str:
    """Take the client's id if it is short and plain (it goes into logs), else make one."""
    if given is not None and SANE_ID.fullmatch(given):
        return given
    return "req_" + secrets.token_hex(16)


def begin(scope: Any, exchange: Exchange) -> None:
    """Attach the exchange to the request."""
    scope.setdefault("state", {})[_KEY] = exchange


def current(scope: Any) -> Exchange:
    """Find the exchange of the request."""
    exchange: Exchange = scope["state"][_KEY]
    return exchange
