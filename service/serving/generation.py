"""One generation under way: who answers, the pieces as they come, and what it used."""

import time
from asyncio import CancelledError
from collections.abc import AsyncIterator

from msgspec import Struct

from service.adapters.service import Target
from service.errors import EngineBusy, EngineUnavailable
from service.serving.call_events import Reading
from service.serving.engine import Piece, TokenLogprob
from service.serving.merging import closing
from service.serving.metrics import GenerationMetrics
from service.serving.schemas import FinishReason, Usage, usage
from service.telemetry import logger
from service.tenants.allowances import Allowance
from service.tenants.usage_counters import Amount, Counter
from service.tenants.usage_meter import Account, UsageMeter
from service.wire import now

log = logger(__name__)


class Choice(Struct, frozen=True, kw_only=True):
    """One whole answer."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None


class Caller(Struct, frozen=True):
    """Who asks for a generation, and pays for it."""

    tenant: str
    key_id: str | None
    """None: the operator's."""
    weight: float
    """The tenant's share, against the others' weights."""
    allowance: Allowance


class Generation:
    """Draw from it once, with `pieces` or `collect`. `usage` grows as pieces come."""

    def __init__(
        self,
        *,
        generation_id: str,
        caller: Caller,
        target: Target,
        fingerprint: str,
        prompt_tokens: int,
        choices: int,
        source: AsyncIterator[Piece],
        calls: Reading | None = None,
        metrics: GenerationMetrics,
        meter: UsageMeter,
    ) -> None:
        self.id = generation_id
        self.tenant = caller.tenant
        self.model = target.model
        self._lease = target.lease
        self.digest = target.revision.digest if target.revision else None
        self.fingerprint = fingerprint
        self.created = now()
        self.calls = calls
        """What reads its calls of functions, if it may call any."""
        self._prompt_tokens = prompt_tokens
        self._source = source
        self._metrics = metrics
        self._meter = meter
        self._counter = _counter(caller, target)
        self._account: Account | None = None
        self._allowance = caller.allowance
        self._unfinished = set(range(choices))
        self._tokens: dict[int, int] = {}
        self._began = time.monotonic()
        self._first: float | None = None
        self._queued: float | None = None

    @property
    def usage(self) -> Usage:
        """Tokens read, and generated so far."""
        return usage(self._prompt_tokens, sum(self._tokens.values()))

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what comes until every choice has ended; closing it frees the engine's place.

        Raises EngineUnavailable also when the engine stops in the middle of an answer: half an
        answer is never passed off as a whole one.
        """
        outcome = "failed"
        try:
            async with closing(self._source) as source:
                async for piece in source:
                    self._count(piece)
                    yield piece
            if self._unfinished:
                raise EngineUnavailable("The engine stopped before the answer was whole.")
            outcome = "finished"
        except EngineBusy:
            outcome = "refused"
            self._metrics.turned_away(self.tenant)
            raise
        except (GeneratorExit, CancelledError):
            outcome = "cancelled"
            raise
        finally:
            if self._lease is not None:
                self._lease.close()
            if self._account is not None:
                self._account.close()
            self._record(outcome)
            used = self.usage
            # Before the client reads the end, and may ask again.
            await self._allowance.end(used.prompt_tokens, used.completion_tokens)

    async def collect(self) -> list[Choice]:
        """Wait for the whole answers."""
        heard: dict[int, list[Piece]] = {}
        async with closing(self.pieces()) as pieces:
            async for piece in pieces:
                heard.setdefault(piece.index, []).append(piece)
        return [_choice(index, heard[index]) for index in sorted(heard)]

    def _count(self, piece: Piece) -> None:
        if self._first is None:
            self._first = time.monotonic()
            self._metrics.began(self.tenant, self._first - self._began)
            # Not before: what the engine refuses costs nothing.
            self._account = self._meter.open(self._counter, self._used)
        if piece.queued is not None:
            self._queued = max(self._queued or 0.0, piece.queued)
            self._metrics.admitted(self.tenant, piece.queued)
        self._tokens[piece.index] = piece.tokens
        if piece.finish_reason is not None:
            self._unfinished.discard(piece.index)

    def _used(self) -> Amount:
        used = self.usage
        return Amount(1, used.prompt_tokens, used.completion_tokens)

    def _record(self, outcome: str) -> None:
        kind, used = "adapter" if self.digest else "base", self.usage
        self._metrics.ended(kind, outcome, self.tenant, used.prompt_tokens, used.completion_tokens)
        log.info(
            "generation.ended",
            id=self.id,
            tenant=self.tenant,
            model=self.model,
            outcome=outcome,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            queued_ms=None if self._queued is None else _milliseconds(self._queued),
            first_ms=None if self._first is None else _milliseconds(self._first - self._began),
            total_ms=_milliseconds(time.monotonic() - self._began),
        )


def finish_reason(piece: Piece) -> FinishReason | None:
    """Read why the choice ended, if it has."""
    if piece.finish_reason is None:
        return None
    return "stop" if piece.finish_reason == "stop" else "length"


def _counter(caller: Caller, target: Target) -> Counter:
    adapter, digest = "", ""
    if target.revision is not None:
        adapter, digest = target.revision.adapter, target.revision.digest
    return Counter(caller.tenant, "generated", caller.key_id or "", adapter, digest, target.model)


def _choice(index: int, pieces: list[Piece]) -> Choice:
    logprobs = [entry for piece in pieces for entry in piece.logprobs or []]
    asked = any(piece.logprobs is not None for piece in pieces)
    return Choice(
        index=index,
        text="".join(piece.text for piece in pieces),
        finish_reason=finish_reason(pieces[-1]) or "length",
        logprobs=logprobs if asked else None,
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
