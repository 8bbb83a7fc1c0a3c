"""Sends one webhook: to an address that was checked, without redirects, and never for long."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import httpcore
import httpx

from service import __version__
from service.webhooks.addresses import BadUrl, Destination, destination, may_reach

SECONDS = 10.0
"""For everything: resolving, connecting, sending, and the first line of the answer."""
RESOLVERS = 32
"""Names that are looked up at once: a server of names may be slow on purpose."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class NotSent(Exception):
    """No answer came of it; the message says why, and names nothing of our network."""


class Sender:
    """Posts to tenants' URLs. `private` lets them be in private networks, and plain http.

    Of the answer only the status is read. `resolve` finds a name's addresses; `trust` says whose
    certificates are good, by default certifi's.
    """

    def __init__(
        self,
        *,
        private: bool,
        seconds: float = SECONDS,
        resolve: Resolve | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.private = private
        self.seconds = seconds
        self._resolving = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="webhook-names")
        self._network = _CheckedNetwork(resolve or self._look_up, private=private)
        self._given_trust = trust

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Post, and return the answer's status. Raises NotSent."""
        try:
            there = destination(url, private=self.private)
            async with asyncio.timeout(self.seconds):
                return await self._post(there, headers, body)
        except BadUrl as fault:
            raise NotSent(f"The URL is not allowed: {fault}") from None
        except (TimeoutError, httpcore.TimeoutException):
            raise NotSent(f"There was no answer within {self.seconds:g} seconds") from None
        except httpcore.NetworkError:
            raise NotSent("The connection failed") from None
        except httpcore.ProtocolError:
            raise NotSent("The answer was not HTTP") from None

    def close(self) -> None:
        """Look up no more names."""
        self._resolving.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """Made once something is sent: reading certificates takes a while."""
        return self._given_trust or httpx.create_ssl_context()

    async def _post(self, there: Destination, headers: Mapping[str, str], body: bytes) -> int:
        # A pool for each: a connection that is kept would outlive what was checked of it.
        trust = await asyncio.to_thread(getattr, self, "_trust")
        pool = httpcore.AsyncConnectionPool(trust, network_backend=self._network)
        url = httpcore.URL(
            scheme=there.scheme.encode(),
            host=there.host.encode(),
            port=there.port,
            target=there.target.encode(),
        )
        all_headers = {
            "host": there.authority,
            "content-type": "application/json",
            "user-agent": f"lorehouse/{__version__}",
            "connection": "close",
            **headers,
        }
        async with (
            pool,
            pool.stream("POST", url, headers=[*all_headers.items()], content=body) as answer,
        ):
            return answer.status

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        # Not the loop's own: it has four threads for all names.
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._resolving, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to names: looks each up once, and goes to an address that it has checked."""

    def __init__(self, resolve: Resolve, *, private: bool) -> None:
        self._resolve = resolve
        self._private = private
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the protocol's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise NotSent("The host's name does not resolve") from None
        allowed = [a for a in dict.fromkeys(addresses) if may_reach(a, private=self._private)]
        if not allowed:
            raise NotSent("The host has no public address")
        fault: Exception | None = None
        for address in allowed:
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                fault = failed
        raise fault or httpcore.ConnectError
