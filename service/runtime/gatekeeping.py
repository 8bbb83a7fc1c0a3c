"""The publish gate in a runtime: revisions are examined in its own serving engine."""

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from adapters_store import RevisionRef
from service.base.probes import Probes
from service.errors import EngineUnavailable
from service.serving.engine import Engine
from service.serving.gate import Rules, Verdict, examine, score, sequences_of
from service.serving.losses import Scores
from service.telemetry import logger

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait for an engine that has too much to do."""
APART_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0, *(30.0 for _ in range(9)))
"""For one in a process of its own, which may have to be started first: five minutes."""
REMEMBERED = 64
"""Jobs for which the base has been scored."""

_log = logger(__name__)


class Gatekeeper:
    """Examines what was trained here; what could not be examined is not let through.

    An engine that is `apart` may end, and come back.
    """

    def __init__(
        self,
        engine: Engine,
        rules: Rules,
        delays: Sequence[float] | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._engine = engine
        self._apart = apart
        self._rules = rules
        self._delays = delays or (APART_DELAYS if apart else DELAYS)
        self._base: dict[bytes, asyncio.Task[Scores]] = {}

    def foresee(self, probes: Probes) -> None:
        """Have the base scored now, while what will be examined is still being trained.

        That is half of what an examination takes. What fails here is tried again there.
        """
        self._begin(probes)

    async def examine(self, ref: RevisionRef, probes: Probes) -> Verdict:
        """Judge a revision whose files are in the store.

        Raises EngineUnavailable when the engine is closed, or stays too busy to be asked.
        """
        for delay in self._delays:
            try:
                return await self._judge(ref, probes)
            except EngineUnavailable as fault:
                _log.warning("gate.waits", reason=fault.message)
                if not self._apart:
                    # Raises if it is closed: it will not come back in this process.
                    await self._engine.status()
                await asyncio.sleep(delay)
        return await self._judge(ref, probes)

    async def _judge(self, ref: RevisionRef, probes: Probes) -> Verdict:
        base = await self._base_scores(probes)
        verdict = await examine(self._engine, ref, probes, self._rules, base)
        if not verdict.passed:
            _log.warning("gate.rejected", digest=ref.digest, reason=verdict.reason)
        return verdict

    async def _base_scores(self, probes: Probes) -> Scores:
        # The others who wait for it are not to suffer from who stops waiting.
        return await asyncio.shield(self._begin(probes))

    def _begin(self, probes: Probes) -> "asyncio.Task[Scores]":
        """Score the base once for all that a job makes: it does not change while we run."""
        key = hashlib.sha256(msgspec.msgpack.encode(sequences_of(probes))).digest()
        found = self._base.get(key)
        if found is None or _failed(found):
            found = asyncio.create_task(score(self._engine, None, probes))
            # Looked at, or asyncio would complain of what nobody came to wait for.
            found.add_done_callback(_failed)
            self._base[key] = found
            if len(self._base) > REMEMBERED:
                del self._base[next(iter(self._base))]
        return found


def _failed(task: "asyncio.Task[Scores]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
