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
        self._check_types(body)
        return body

    def _check_types(self, body: Any) -> None:
        """Refuse a string where a number is due: Litestar's own conversion would take it."""
        wanted = self.route_handler.parsed_data_field
        if wanted is None:
            return
        try:
            msgspec.convert(body, wanted.annotation, strict=True)
        except msgspec.ValidationError as fault:
            raise ValidationException("The body does not fit.") from fault
