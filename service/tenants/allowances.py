"""What one request may take of its tenant's rate limits, and how it gives back what it did not use.

Without limits all of it is one comparison.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import DBAPIError

from service.database import Database
from service.errors import RateLimited, ServiceError
from service.telemetry import logger
from service.tenants.limits import Limits
from service.tenants.places import Places
from service.tenants.portions import Standing
from service.tenants.quotas import Excess
from service.tenants.rates import Rate, Rates
from service.tenants.usage_counters import DAY_SECONDS
from service.tenants.used import generated_since
from service.waiting import every
from service.wire import new_id

SETTLE_SECONDS = 1.0
GENERATIONS_RETRY_SECONDS = 1.0

log = logger(__name__)


REQUESTS = Rate("requests", 60)
TOKENS = Rate("tokens", 60)
GENERATED = Rate("generated", DAY_SECONDS, generated_since)


class Limiter:
    """The rate limits of all tenants, in one API process."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.rates = Rates(database, clock)
        self.places = Places(database, new_id("api_"), clock)

    async def run(self) -> None:
        """Give back for ever what lies unused, and at the end all of it."""
        try:
            await every(SETTLE_SECONDS, lambda: _told(self.settle()))
        finally:
            await _told(self.settle(all_of_it=True))

    async def settle(self, *, all_of_it: bool = False) -> None:
        """Give back what lies unused."""
        await self.rates.settle(all_of_it=all_of_it)
        await self.places.settle(all_of_it=all_of_it)


class Allowance:
    """One request's. `headers` go with whatever it is answered."""

    def __init__(self, limiter: Limiter, tenant_id: str, limits: Limits) -> None:
        self._limiter = limiter
        self._tenant = tenant_id
        self._limits = limits
        self.headers: dict[str, str] = {}
        self._taken: list[tuple[Rate, int, int]] = []
        self._entered = False

    def places(self) -> int | None:
        """Tell how many of its revisions may be on the base at once; raises QuotaExceeded at 0."""
        if self._limits.resident_adapters == 0:
            raise Excess("resident_adapters", 0, 0, 1).error
        return self._limits.resident_adapters

    async def request(self) -> None:
        """Count the request. Raises RateLimited."""
        if (limit := self._limits.requests_per_minute) is not None:
            taken = await self._take(REQUESTS, limit, 1)
            self._tell(REQUESTS, limit)
            if not taken:
                raise self._limited(REQUESTS, limit, 1)

    async def generation(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Take what a generation may need at most, until `end`.

        Raises RateLimited, and QuotaExceeded for the day's tokens.
        """
        try:
            await self._enter()
            await self._take_tokens(prompt_tokens + answer_tokens)
            await self._take_generated(answer_tokens)
        except ServiceError:
            await self.end(0, 0)
            raise

    async def end(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Give back what was not used, and the place. A second time does nothing."""
        used = {TOKENS: prompt_tokens + answer_tokens, GENERATED: answer_tokens}
        taken, self._taken = self._taken, []
        for rate, window, amount in taken:
            back = max(0, amount - used[rate])
            self._limiter.rates.give_back(self._tenant, rate, window, back)
        if self._entered:
            self._entered = False
            # Whoever is cancelled here leaves the place all the same.
            await asyncio.shield(_told(self._limiter.places.leave(self._tenant)))

    async def _enter(self) -> None:
        limit = self._limits.concurrent_generations
        if limit is None:
            return
        self._entered = await self._limiter.places.enter(self._tenant, limit)
        if not self._entered:
            message = f"Rate limit reached: {limit} generations at once (concurrent_generations)."
            raise RateLimited(message, GENERATIONS_RETRY_SECONDS, self.headers)

    async def _take_tokens(self, tokens: int) -> None:
        if (limit := self._limits.tokens_per_minute) is not None:
            window = await self._take(TOKENS, limit, tokens)
            self._tell(TOKENS, limit)
            if not window:
                raise self._limited(TOKENS, limit, tokens)

    async def _take_generated(self, tokens: int) -> None:
        if (limit := self._limits.generated_tokens_per_day) is not None and not await self._take(
            GENERATED, limit, tokens
        ):
            left = self._limiter.rates.remaining(self._tenant, GENERATED, limit)
            excess = Excess("generated_tokens_per_day", limit, limit - left, tokens)
            raise excess.error

    async def _take(self, rate: Rate, limit: int, amount: int) -> bool:
        window = await self._limiter.rates.take(self._tenant, rate, limit, amount)
        if window is None:
            return False
        if rate is not REQUESTS:
            self._taken.append((rate, window, amount))
        return True

    def _tell(self, rate: Rate, limit: int) -> None:
        remaining = self._limiter.rates.remaining(self._tenant, rate, limit)
        resets_in = self._limiter.rates.resets_in(rate)
        self.headers.update(Standing(rate.kind, limit, remaining, resets_in).headers)

    def _limited(self, rate: Rate, limit: int, asked: int) -> RateLimited:
        message = f"Rate limit reached: {limit} {rate.kind} a minute; this request needs {asked}."
        return RateLimited(
            message, self._limiter.rates.resets_in(rate), self.headers, never=asked > limit
        )


async def _told(work: Awaitable[None]) -> None:
    """Do what no request may fail for."""
    try:
        await work
    except (ServiceError, DBAPIError, OSError):
        log.warning("limits.not_settled", exc_info=True)
