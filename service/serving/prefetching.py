"""Loads that nobody waits for: whoever causes one neither pays for it nor hears of its failure."""

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

from adapters_store import RevisionRef
from service.errors import EngineUnavailable
from service.serving.engine import Engine
from service.telemetry import logger

_log = logger(__name__)


async def prefetch(engine: Engine, ref: RevisionRef) -> bool:
    """Have the engine load what is likely to be called soon; tell whether it heard.

    How the load goes is the engine's to log and to count.
    """
    try:
        await engine.prefetch(ref)
    except EngineUnavailable as fault:
        _log.warning(
            "revision.not_prefetched", tenant=ref.tenant, digest=ref.digest, reason=str(fault)
        )
        return False
    return True


class Prefetcher:
    """Asks in the background, in the event loop that it is called in."""

    def __init__(self, engine: Engine, registry: CollectorRegistry) -> None:
        self._engine = engine
        self._asking: set[asyncio.Task[None]] = set()
        self._prefetches = Counter(
            "lorehouse_prefetches",
            "Revisions that the engine was asked to load without a request",
            ("outcome",),
            registry=registry,
        )

    def __call__(self, refs: Iterable[RevisionRef]) -> None:
        """Have these loaded, the most important last."""
        task = asyncio.create_task(self._ask(list(refs)))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Ask for nothing more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _ask(self, refs: list[RevisionRef]) -> None:
        for ref in refs:
            heard = await prefetch(self._engine, ref)
            self._prefetches.labels("asked" if heard else "failed").inc()
