"""From the trainer's thread to the event loop: events in order, in batches, none lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

from service.training.trainer import CheckpointDue, EpochDone, TrainingEvent

Keep = Callable[[Sequence[TrainingEvent]], Awaitable[None]]

_Waiting = tuple[TrainingEvent, "Future[None]"]


class Relay:
    """Hands events to `keep`, which is called with all that came since its last call.

    Make and `run` it in the event loop, `report` from any one thread. What `keep` raises is raised
    from `run`, and from every later `report`.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue()
        self._fault: BaseException | None = None

    def report(self, event: TrainingEvent) -> None:
        """Pass an event on; an epoch's end and a checkpoint wait until all so far is kept."""
        if self._fault is not None:
            raise self._fault
        kept: Future[None] = Future()
        self._loop.call_soon_threadsafe(self._put, (event, kept))
        if isinstance(event, EpochDone | CheckpointDue):
            kept.result()

    async def run(self) -> None:
        """Keep events until `close`."""
        closed = False
        while not closed:
            arrived = [await self._queue.get()]
            while not self._queue.empty():
                arrived.append(self._queue.get_nowait())
            closed = None in arrived
            batch = [waiting for waiting in arrived if waiting is not None]
            await self._hand_over(batch)

    def close(self) -> None:
        """Let `run` end once everything reported so far is kept."""
        self._queue.put_nowait(None)

    async def _hand_over(self, batch: list[_Waiting]) -> None:
        try:
            if batch:
                await self._keep([event for event, _ in batch])
        except BaseException as fault:
            self._give_up(batch, fault)
            raise
        for _, kept in batch:
            kept.set_result(None)

    def _put(self, waiting: _Waiting) -> None:
        if self._fault is None:
            self._queue.put_nowait(waiting)
        else:
            waiting[1].set_exception(self._fault)

    def _give_up(self, batch: list[_Waiting], fault: BaseException) -> None:
        self._fault = fault
        while not self._queue.empty():
            if (left := self._queue.get_nowait()) is not None:
                batch.append(left)
        for _, kept in batch:
            kept.set_exception(fault)
