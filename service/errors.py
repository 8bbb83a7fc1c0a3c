"""Every error a caller can be told about; each knows its HTTP status and its stable code.

ServiceError
├── BadRequest                400  the request itself is wrong
│   ├── MissingParameter      400  a field that must be there is not
│   ├── UnsupportedField      400  a field we know of, whose meaning we cannot honour yet
│   └── InvalidTrainingFile   400  the file's content is wrong, line by line
├── Unauthenticated           401
├── Forbidden                 403  the key lacks a scope
├── NotFound                  404  also for what belongs to another tenant
├── Conflict                  409  permanent: the client must not retry it
├── KeyInUse                  409  temporary: the same request is being answered
├── PreconditionFailed        412  the thing is not in the state that the request was made for
├── TooLarge                  413
├── Unprocessable             422  it is what it should be, and may not be served
├── PreconditionRequired      428  the request must say which state it was made for
├── QuotaExceeded             429  the tenant has as much as it may have
├── RateLimited               429  the tenant asks faster than it may
└── Unavailable               503  ours, temporary: the client may retry
    ├── DatabaseUnavailable   503
    ├── EngineUnavailable     503
    │   └── EngineBusy        503  too many requests wait, of all tenants or of this one
    ├── ShuttingDown          503
    ├── Overloaded            503  as many requests are being answered as may be
    ├── AdaptersUnavailable   503
    └── StorageFull           503
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """Base of all errors that reach a client as OpenAI's error body."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    @property
    def extra(self) -> dict[str, Any]:
        """Further members of the error body."""
        return {}

    @property
    def sent_headers(self) -> Mapping[str, str]:
        """Headers of the answer."""
        return self.headers


class BadRequest(ServiceError):
    """The request itself is wrong; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code: str | None = "invalid_value"


class MissingParameter(BadRequest):
    """A field that must be there is not."""

    code = "missing_required_parameter"

    def __init__(self, param: str) -> None:
        super().__init__(f"Missing required parameter: '{param}'.", param=param)


class UnsupportedField(BadRequest):
    """A known field whose meaning this server cannot honour."""

    code = "unsupported_parameter"


class InvalidTrainingFile(BadRequest):
    """The uploaded file holds lines that cannot be trained on.

    `errors` holds the first faults as (line, reason), `error_count` all of them.
    """

    code = "invalid_training_file"

    def __init__(self, message: str, errors: list[tuple[int, str]], error_count: int) -> None:
        super().__init__(message, param="file")
        self.errors = errors
        self.error_count = error_count

    @property
    def extra(self) -> dict[str, Any]:
        """The faults, one object a line."""
        lines = [{"line": line, "reason": reason} for line, reason in self.errors]
        return {"errors": lines, "error_count": self.error_count}


class Unauthenticated(ServiceError):
    """No key, a wrong one, or a revoked one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    headers: ClassVar[dict[str, str]] = {"www-authenticate": "Bearer"}


class Forbidden(ServiceError):
    """The key is good but lacks the scope."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFound(ServiceError):
    """Nothing of that name is visible to this tenant."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(ServiceError):
    """The state forbids it and will go on forbidding it (SDKs retry a bare 409)."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class KeyInUse(ServiceError):
    """The first request under this Idempotency-Key has no answer yet; the client may retry."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_in_use"
    headers: ClassVar[dict[str, str]] = {"retry-after": "1"}

    def __init__(self, param: str) -> None:
        super().__init__("A request with this Idempotency-Key is under way.", param=param)


class PreconditionFailed(ServiceError):
    """The thing changed since the client saw it; `current` is what it is now, null for nothing."""

    status = 412
    type = "invalid_request_error"
    code = "precondition_failed"

    def __init__(self, message: str, *, param: str, current: dict[str, Any] | None) -> None:
        super().__init__(message, param=param)
        self.current = current

    @property
    def extra(self) -> dict[str, Any]:
        """The current state, so that the client need not ask for it."""
        return {"current": self.current}


class Unprocessable(ServiceError):
    """What was brought is well-formed, and was found unfit when it was tried."""

    status = 422
    type = "invalid_request_error"
    code = "unprocessable"


class PreconditionRequired(ServiceError):
    """A change that could undo another's unseen must name the version that it changes."""

    status = 428
    type = "invalid_request_error"
    code = "precondition_required"


class QuotaExceeded(ServiceError):
    """The tenant has, or has used, as much as it may; an SDK's second try would not mend that.

    `figures` are the quota's name, its limit, what is used and what was asked for.
    """

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}

    def __init__(self, message: str, figures: dict[str, Any]) -> None:
        super().__init__(message)
        self.figures = figures

    @property
    def extra(self) -> dict[str, Any]:
        """The figures of the message, for programs."""
        return self.figures


class RateLimited(ServiceError):
    """The tenant asks faster than it may; `retry_after` is in seconds.

    `never` says that this request is over the limit by itself.
    """

    status = 429
    type = "rate_limit_exceeded"
    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, retry_after: float, told: Mapping[str, str], *, never: bool = False
    ) -> None:
        super().__init__(message)
        again = {"x-should-retry": "false"} if never else {}
        self.told = {**told, "retry-after": str(max(1, math.ceil(retry_after))), **again}

    @property
    def sent_headers(self) -> Mapping[str, str]:
        """When to come again, and what the limits are."""
        return self.told


class TooLarge(ServiceError):
    """The body is over a limit."""

    status = 413
    type = "invalid_request_error"
    code = "too_large"


class Unavailable(ServiceError):
    """We cannot do it right now; the same request may work later."""

    status = 503
    type = "server_error"
    code = "unavailable"
    headers: ClassVar[dict[str, str]] = {"retry-after": "1"}


class DatabaseUnavailable(Unavailable):
    """The database is busy, or does not answer."""


class EngineUnavailable(Unavailable):
    """The generation engine is starting, restarting, or died under this request."""

    code = "engine_unavailable"


class EngineBusy(EngineUnavailable):
    """So many requests are waiting, of all tenants or of this one, that this one may not."""

    code = "engine_busy"


class ShuttingDown(Unavailable):
    """The server ends, and did not finish this request in its time of grace."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("The server is shutting down; try again.")


class Overloaded(Unavailable):
    """The server answers as many requests as it may at once."""

    code = "overloaded"

    def __init__(self) -> None:
        super().__init__("The server is answering as many requests as it can; try again.")


class AdaptersUnavailable(Unavailable):
    """The disk or the cloud that keeps the adapters does not answer."""

    code = "adapters_unavailable"

    def __init__(self) -> None:
        super().__init__("The adapter store does not answer; try again.")


class StorageFull(Unavailable):
    """The disk has no room for it. Nothing of the request was kept."""

    code = "insufficient_storage"

    def __init__(self) -> None:
        super().__init__("The server has no space left to store this.")
