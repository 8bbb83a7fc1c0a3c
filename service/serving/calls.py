"""One request in an engine: where its pieces go, across from the engine's thread to its waiter."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from msgspec.structs import replace

from adapters_store import RevisionRef
from service.errors import ServiceError
from service.serving.engine import GenerationRequest, Piece
from service.serving.structures import Structure


class ScoreRequest(msgspec.Struct, frozen=True):
    """Prompts whose log-probabilities are wanted."""

    revision: RevisionRef | None
    prompts: Sequence[Sequence[int]]


class Scored(msgspec.Struct, frozen=True):
    """Those of one prompt's tokens from the second on."""

    index: int
    logprobs: list[float]


Event = Piece | Scored | ServiceError | None
"""None: every choice, or prompt, has finished."""


class Call:
    """Made by the waiter in its event loop; fed by the engine's thread through a Courier."""

    def __init__(
        self, request: GenerationRequest | ScoreRequest, structures: Sequence[Structure] = ()
    ) -> None:
        self.request = request
        self._structures = structures
        self.open: set[int] = set()
        self.outside = self.parts
        """Sequences that have not been in the batch yet."""
        self.waits = False
        """Whether it is counted among those that wait for it."""
        self._came = time.monotonic()
        self._queued: float | None = None
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def parts(self) -> int:
        """How many sequences it asks for."""
        request = self.request
        return len(request.prompts) if isinstance(request, ScoreRequest) else request.sampling.n

    def structure(self, index: int) -> Structure | None:
        """What one of its sequences keeps to."""
        return self._structures[index] if self._structures else None

    @property
    def tenant(self) -> str:
        """Who asks. What is scored is for the house, which takes its turns as a tenant does."""
        return self.request.tenant if isinstance(self.request, GenerationRequest) else ""

    @property
    def places(self) -> int | None:
        """How many of the tenant's revisions may be resident at once."""
        return self.request.places if isinstance(self.request, GenerationRequest) else None

    @property
    def weight(self) -> float:
        """The tenant's share, against the others' weights."""
        return self.request.weight if isinstance(self.request, GenerationRequest) else 1.0

    @property
    def prompt_tokens(self) -> int:
        """Tokens to read."""
        request = self.request
        if isinstance(request, GenerationRequest):
            return len(request.prompt)
        return sum(map(len, request.prompts))

    def begin(self) -> None:
        """Note that one more of its sequences is in the batch."""
        if self.outside == self.parts:
            self._queued = time.monotonic() - self._came
        self.outside -= 1

    def marked(self, piece: Piece) -> Piece:
        """Say on the first piece how long the request had waited."""
        if self._queued is None:
            return piece
        queued, self._queued = self._queued, None
        return replace(piece, queued=queued)

    def put(self, event: Event) -> None:
        """Hand over an event; in the waiter's loop only."""
        self._events.put_nowait(event)

    async def answers(self) -> AsyncIterator[Piece | Scored]:
        """Yield what comes; raise the error that ends the call early."""
        while (event := await self._events.get()) is not None:
            if isinstance(event, ServiceError):
                raise event
            yield event


class Courier:
    """Carries a round's events over together: one wake-up for each loop, not for each token."""

    def __init__(self) -> None:
        self._bags: dict[asyncio.AbstractEventLoop, list[tuple[Call, Event]]] = {}

    def add(self, call: Call, event: Event) -> None:
        """Keep an event for the next delivery."""
        self._bags.setdefault(call.loop, []).append((call, event))

    def deliver(self) -> None:
        """Send everything on its way."""
        bags, self._bags = self._bags, {}
        for loop, bag in bags.items():
            # A loop that was closed has no waiters left to tell.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_unpack, bag)


def _unpack(bag: list[tuple[Call, Event]]) -> None:
    for call, event in bag:
        call.put(event)
