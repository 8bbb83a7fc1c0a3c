"""`VllmBackend`: rows as requests of vLLM's, and what arrives of them as rounds."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
from vllm.inputs import tokens_input

from adapters_store import RevisionRef
from service.base.rows import KvUse, Round, Row
from service.serving.door import nobody
from service.serving.engine_names import engine_name
from service.serving.vllm.sampling import picks, score, wishes
from service.serving.vllm.shelf import Shelf

Prepare = Callable[[RevisionRef], None]
"""Checks a revision and has it put on the shelf, on any thread."""


class Unfinished(Exception):
    """vLLM ended a sequence before its time."""


class _Running(msgspec.Struct, frozen=True):
    row: Row
    task: "asyncio.Task[None]"


class VllmBackend:
    """Drives what was let in already: vLLM never has more than it runs.

    Everything but `prepare` happens in the event loop that vLLM's client is in. Whoever drives the
    generation loop sets `wake`, which is called when a round would bring something.
    """

    def __init__(self, llm: Any, shelf: Shelf, prepare: Prepare) -> None:
        self._llm = llm
        self._shelf = shelf
        self._prepare = prepare
        self._running: dict[int, _Running] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._arrived = Round()
        self.wake: Callable[[], None] = nobody

    def prepare(self, ref: RevisionRef) -> None:
        """Check it and have vLLM load it; blocks, in another thread than the event loop's."""
        self._prepare(ref)

    def install(self, ref: RevisionRef, prepared: None) -> None:
        """Do nothing more: vLLM put it into its slot as it loaded it."""

    def remove(self, ref: RevisionRef) -> None:
        """Have it taken out, after the last word to those that ran on it."""
        self._shelf.remove(self.name(ref), self._left)

    def name(self, ref: RevisionRef) -> str:
        """Give the name that vLLM knows it by, and mixes into its prefixes' keys."""
        return engine_name(ref)

    @property
    def busy(self) -> bool:
        """Whether something has arrived."""
        arrived = self._arrived
        return bool(arrived.picks or arrived.lost or arrived.scores)

    @property
    def use(self) -> KvUse:
        """Know nothing of it: vLLM tells it in its own statistics only."""
        return KvUse(used=0, total=0, preemptions=0, reused=0)

    def add(self, rows: Iterable[Row]) -> None:
        """Hand rows to vLLM."""
        for row in rows:
            task = asyncio.create_task(self._run(row))
            self._running[row.key] = _Running(row, task)

    def drop(self, keys: Collection[int]) -> None:
        """Have vLLM stop at these."""
        for key in keys:
            if (gone := self._running.pop(key, None)) is not None and gone.task.cancel():
                self._leaving.add(gone.task)
                gone.task.add_done_callback(self._leaving.discard)

    def round(self) -> Round:
        """Give what has arrived since the last one."""
        arrived, self._arrived = self._arrived, Round()
        arrived.lost = [key for key in arrived.lost if key in self._running]
        return arrived

    async def _left(self) -> None:
        """Return once vLLM was told of all that were dropped until now."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _run(self, row: Row) -> None:
        try:
            if row.scored:
                await self._score(row)
            else:
                await self._generate(row)
        except Exception as fault:  # noqa: BLE001 - whoever waits for the row must hear of any fault
            self._arrived.lost.append(row.key)
            self._arrived.faults.append(fault)
            self.wake()

    async def _generate(self, row: Row) -> None:
        made, last = 0, -1
        async for output in self._outputs(row):
            if new := picks(row, output):
                made, last = made + len(new), new[-1].token
                self._arrived.picks += new
                self.wake()
        if made != row.max_tokens and last not in row.ends:
            raise Unfinished(f"after {made} tokens")

    async def _score(self, row: Row) -> None:
        found = None
        async for output in self._outputs(row):
            found = score(row, output) or found
        if found is None:
            raise Unfinished("without a score")
        self._arrived.scores.append(found)
        self.wake()

    def _outputs(self, row: Row) -> Any:
        # By name: an adapter that is not held raises, and never means the base.
        adapter = None if row.adapter is None else self._shelf.of(row.adapter)
        salt = f"score/{row.key}" if row.scored else f"{row.salt}/{row.adapter or ''}"
        prompt = tokens_input(row.prompt, cache_salt=salt)
        return self._llm.generate(prompt, wishes(row), str(row.key), lora_request=adapter)
