"""Requests, as Litestar hands them to handlers."""

from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import SerializationException, ValidationException


class JsonRequest(Request[Any, Any, Any]):
    """Takes bodies for what they are: not JSON, or of another type than the handler asks for."""

    async def json(self) -> Any:
        """Decode the body; raises SerializationException, and ValidationException."""
        try:
            body = await super().json()
        except (RecursionError, UnicodeDecodeError) as fault:
            raise SerializationException(f"the body is not JSON: {fault}") from None
        wanted = self.route_handler.parsed_data_field
        return body if wanted is None else _checked(body, wanted.annotation)


def _checked(body: Any, wanted: Any) -> Any:
    """Refuse a string where a number is due: Litestar's own conversion would take it."""
    try:
        msgspec.convert(body, wanted, strict=True)
    except msgspec.ValidationError:
        # To JSON, 1.0 is an integer.
        body = _with_integers(body)
    else:
        return body
    try:
        msgspec.convert(body, wanted, strict=True)
    except msgspec.ValidationError as fault:
        raise ValidationException("The body does not fit.") from fault
    return body


def _with_integers(body: Any) -> Any:
    match body:
        case float() if body.is_integer():
            return int(body)
        case list():
            return [_with_integers(item) for item in body]
        case dict():
            return {name: _with_integers(value) for name, value in body.items()}
    return body
