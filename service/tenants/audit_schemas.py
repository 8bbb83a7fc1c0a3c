"""The audit on the wire."""

from typing import Literal

from service.wire import Output


class AuditLine(Output):
    """That somebody asked for a change, and what came of it."""

    id: str
    object: Literal["audit.line"]
    tenant: str | None
    """Whose things; null for the server's own."""
    api_key_id: str | None
    """Null for the operator's key."""
    operation: str
    """Its `operationId` in the OpenAPI document."""
    target: dict[str, str]
    """The names in the path; `created` is the id of what was made."""
    status: int
    request_id: str
    created_at: int


class AuditList(Output):
    """One page, newest first."""

    object: Literal["list"]
    data: list[AuditLine]
    first_id: str | None
    last_id: str | None
    has_more: bool
