"""Every fault as OpenAI's error body; what we did not foresee is a 500 that tells nothing."""

import errno
import re
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from service.errors import MissingParameter, ServiceError, StorageFull
from service.http.exchange import current
from service.telemetry import logger
from service.wire import Output

log = logger(__name__)

CLIENT_CLOSED_REQUEST = 499
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ALWAYS = (400, 401, 403, 429, 500)
_FAULT = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_NO_BODY = "Object missing required field `data`"
_NOT_GIVEN = re.compile(r"Missing required \w+ parameter '(?P<name>[^']+)'")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)


class ErrorDetail(Output):
    """What went wrong. `param` names the field, as a dotted path; `code` is stable."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Output):
    """The body of every answer that is not a success."""

    error: ErrorDetail


INTERNAL = ErrorDetail(
    message="The server had an error while processing your request.",
    type="server_error",
    param=None,
    code="internal_error",
)


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """Document these error answers of a handler, besides the ones that any route may give."""
    return {status: _documented(status) for status in sorted({*statuses, *ALWAYS})}


def body(detail: ErrorDetail, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build the error body; `extra` adds members to it."""
    return {"error": {**msgspec.to_builtins(detail), **(extra or {})}}


def detail_of(fault: ServiceError) -> ErrorDetail:
    """Take over what the error says."""
    return ErrorDetail(message=fault.message, type=fault.type, param=fault.param, code=fault.code)


def describe_fault(fault: str) -> ErrorDetail:
    """Turn msgspec's message into an error that names the field."""
    matched = _FAULT.fullmatch(fault)
    what, path = (matched["what"], matched["path"]) if matched else (fault, None)
    param = _dotted(path)
    if unknown := _UNKNOWN.fullmatch(what):
        param = _join(param, unknown["field"])
        return _invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if what == _NO_BODY and path is None:
        return _invalid("This request needs a JSON body.", None, "missing_body")
    if missing := _MISSING.fullmatch(what):
        return detail_of(MissingParameter(_join(param, missing["field"])))
    where = f"Invalid value for '{param}': " if param else "Invalid request body: "
    return _invalid(where + what, param, "invalid_value")


def _dotted(path: str | None) -> str | None:
    """Make `$.data.messages[0].role` into `messages[0].role`."""
    if path is None:
        return None
    steps = path.removeprefix("$").removeprefix(".")
    if steps == "data" or steps.startswith(("data.", "data[")):
        steps = steps.removeprefix("data").removeprefix(".")
    return steps or None


def _join(parent: str | None, field: str) -> str:
    return f"{parent}.{field}" if parent else field


def _invalid(message: str, param: str | None, code: str | None) -> ErrorDetail:
    return ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)


def _documented(status: int) -> ResponseSpec:
    return ResponseSpec(
        data_container=ErrorBody, description=HTTPStatus(status).phrase, generate_examples=False
    )


def _respond(
    status: int,
    detail: ErrorDetail,
    extra: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response[Any]:
    return Response(
        body(detail, extra), status_code=status, headers=headers, media_type="application/json"
    )


def _service_error(_: Request[Any, Any, Any], fault: ServiceError) -> Response[Any]:
    return _respond(fault.status, detail_of(fault), fault.extra, {**fault.sent_headers})


def _http_exception(request: Request[Any, Any, Any], fault: HTTPException) -> Response[Any]:
    if fault.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unforeseen(request, fault)
    detail = _invalid(*_told(request, fault))
    return _respond(fault.status_code, detail, headers=fault.headers)


def _told(
    request: Request[Any, Any, Any], fault: HTTPException
) -> tuple[str, str | None, str | None]:
    match fault.status_code:
        case HTTPStatus.NOT_FOUND:
            return f"Unknown request URL: {request.method} {request.url.path}.", None, "unknown_url"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"Not allowed to {request.method} on {request.url.path}."
            return message, None, "method_not_allowed"
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return "The request body is too large.", None, "too_large"
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return fault.detail, None, None
    return f"We could not parse the body of your request{_why(fault)}.", None, "invalid_body"


def _why(fault: HTTPException) -> str:
    serialization = fault.__cause__ or fault.__context__
    cause = serialization and (serialization.__cause__ or serialization.__context__)
    # msgspec says what and where, and repeats nothing of the body.
    return (
        f": {str(cause).partition(' - at ')[0]}" if isinstance(cause, msgspec.MsgspecError) else ""
    )


def _validation(request: Request[Any, Any, Any], fault: ValidationException) -> Response[Any]:
    cause = fault.__cause__
    if isinstance(cause, msgspec.ValidationError):
        return _respond(HTTPStatus.BAD_REQUEST, describe_fault(str(cause)))
    if missing := _NOT_GIVEN.match(fault.detail):
        return _respond(HTTPStatus.BAD_REQUEST, detail_of(MissingParameter(missing["name"])))
    return _http_exception(request, fault)


def _os_error(request: Request[Any, Any, Any], fault: OSError) -> Response[Any]:
    if fault.errno not in NO_SPACE:
        return _unforeseen(request, fault)
    log.error("storage.full")
    return _service_error(request, StorageFull())


def _unforeseen(request: Request[Any, Any, Any], fault: Exception) -> Response[Any]:
    if current(request.scope).gone:
        return Response(None, status_code=CLIENT_CLOSED_REQUEST)
    log.error("request.failed", exc_info=fault)
    return _respond(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL)


exception_handlers: ExceptionHandlersMap = {
    ServiceError: _service_error,
    ValidationException: _validation,
    HTTPException: _http_exception,
    OSError: _os_error,
    Exception: _unforeseen,
}
