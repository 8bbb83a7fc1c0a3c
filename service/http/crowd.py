"""How many requests are answered at once: whoever comes on top of them is told so at once."""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.errors import Overloaded
from service.http.edge import PROBES, turn_away


class Crowd:
    """Wraps the app inside of the edge, which counts what is turned away here as well.

    It bounds every queue behind the door: of threads that tokenise, of the database, of the engine.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most
        self.present = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        if self.present >= self.most:
            await turn_away(send, Overloaded())
            return
        self.present += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.present -= 1
