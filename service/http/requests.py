"""Requests, as Litestar hands them to handlers."""

from typing import Any

from litestar import Request
from litestar.exceptions import SerializationException


class JsonRequest(Request[Any, Any, Any]):
    """Takes two faults for what they are: bodies that are not JSON, and not faults of ours."""

    async def json(self) -> Any:
        """Decode the body; raises SerializationException."""
        try:
            return await super().json()
        except (RecursionError, UnicodeDecodeError) as fault:
            raise SerializationException(f"the body is not JSON: {fault}") from None
