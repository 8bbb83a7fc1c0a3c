"""Receives requests while the app is being made: the process shows at once that it lives."""

import asyncio
from typing import Any

from service.http.exchange import request_id

LIVE = "/health/live"


class Lobby:
    """ASGI app in front of one that is not there yet: imports and migrations take their time.

    `/health/live` is answered; whatever else comes waits for the app.
    """

    def __init__(self) -> None:
        self._app: Any = None
        self._open = asyncio.Event()

    def admit(self, app: Any) -> None:
        """Hand over to the app: who waits, and whoever comes from now on."""
        self._app = app
        self._open.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None and scope["type"] == "http" and scope["path"] == LIVE:
            await _alive(scope, send)
            return
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            # The start has failed, or was ended by a signal.
            await _turn_away(send)
            return
        await self._app(scope, receive, send)


async def _alive(scope: Any, send: Any) -> None:
    given = dict(scope["headers"]).get(b"x-request-id")
    names = request_id(given.decode("latin-1") if given else None)
    headers = [(b"content-type", b"application/json"), (b"x-request-id", names.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"status":"live"}'})


async def _turn_away(send: Any) -> None:
    # Not before: it takes the time that this room exists to save.
    from service.errors import ShuttingDown
    from service.http.edge import turn_away

    await turn_away(send, ShuttingDown())
