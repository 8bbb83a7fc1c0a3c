"""Following jobs' events: one look at the database serves all who wait, however many they are."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Protocol

from service.database import Database
from service.database.models import JobEventRow
from service.errors import NotFound
from service.jobs.feed import Feed
from service.jobs.lifecycle import is_terminal
from service.jobs.repository import JobRepository
from service.telemetry import logger
from service.waiting import pass_time

LOOK_SECONDS = 0.25
SWEEP_SECONDS = 60.0
"""A job that seems silent is looked at by itself this often."""
SWEPT_AT_ONCE = 20
OVERLAP = 1000
"""Events that each look sees again: on PostgreSQL lower numbers may become visible later."""
KEPT = BATCH = 500
HEARTBEAT_SECONDS = 15.0

Key = tuple[str, str]

log = logger(__name__)


class Events(Protocol):
    """Where events are read."""

    async def newest(self, after: int | None) -> Mapping[str, int]:
        """Tell the last event's number of each job that had some lately: after `after`, or so."""
        ...

    async def news(
        self, tenant_id: str, job_id: str, seq: int, limit: int
    ) -> tuple[Sequence[JobEventRow], bool]:
        """Read up to `limit` events after `seq`, and whether no others will ever follow them.

        Raises NotFound.
        """
        ...


class Hub:
    """Of each process one. `events` is asked a few times a second while anybody listens.

    `kept` events of each job are at hand; who is farther behind reads them, `batch` at a time.
    """

    def __init__(self, events: Events, *, kept: int = KEPT, batch: int = BATCH) -> None:
        self.events = events
        self.kept = kept
        self.batch = batch
        self._feeds: dict[Key, Feed] = {}
        self._seen: int | None = None
        self._looking: asyncio.Task[None] | None = None

    async def follow(
        self, tenant_id: str, job_id: str, seq: int, heartbeat: float = HEARTBEAT_SECONDS
    ) -> AsyncGenerator[Sequence[JobEventRow], None]:
        """Yield what comes after `seq`, oldest first, until the job has ended and all is out.

        Yields an empty batch at first if there is nothing, and after each `heartbeat` of silence.
        Raises NotFound, at the first step unless the job goes later.
        """
        # Who comes at once, after a restart, does not stay in step for ever.
        silence, began = heartbeat * random.random(), False  # noqa: S311
        with self._following((tenant_id, job_id)) as feed:
            while True:
                changed = feed.changed
                rows = feed.since(seq)
                if rows is None:
                    rows = await self._read(feed, (tenant_id, job_id), seq)
                    if not rows:
                        continue  # the feed may have been told more since that was read
                if rows:
                    seq, silence = rows[-1].seq, heartbeat
                    yield rows
                elif feed.ended:
                    return
                elif not began or not await pass_time(changed, silence):
                    silence = heartbeat if began else silence
                    yield ()
                began = True

    async def look(self) -> None:
        """See what is new of the jobs that are followed, and tell it."""
        newest = await self.events.newest(None if self._seen is None else self._seen - OVERLAP)
        self._seen = max([self._seen or 0, *newest.values()])
        begun = [(key, feed) for key, feed in self._feeds.items() if feed.seq is not None]
        silent = time.monotonic() - SWEEP_SECONDS
        told = [one for one in begun if newest.get(one[0][1], 0) > (one[1].seq or 0)]
        swept = islice((one for one in begun if one[1].looked_at < silent), SWEPT_AT_ONCE)
        # One after the other: who is told is silent no more.
        for key, feed in chain(told, swept):
            if (seq := feed.seq) is not None:
                await self._tell(key, feed, seq)

    async def close(self) -> None:
        """Look no more; who still listens hears nothing any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _tell(self, key: Key, feed: Feed, seq: int) -> None:
        try:
            await self._read(feed, key, seq)
        except NotFound:
            feed.forget()

    async def _read(self, feed: Feed, key: Key, seq: int) -> Sequence[JobEventRow]:
        rows, ended = await self.events.news(*key, seq, self.batch)
        feed.looked_at = time.monotonic()
        if feed.start is not None or len(rows) < self.batch:
            feed.tell(seq, rows, ended=ended)
        return rows

    @contextmanager
    def _following(self, key: Key) -> Iterator[Feed]:
        feed = self._feeds.setdefault(key, Feed(self.kept))
        feed.listeners += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on())
        try:
            yield feed
        finally:
            feed.listeners -= 1
            if not feed.listeners:
                del self._feeds[key]

    async def _look_on(self) -> None:
        """Look while anybody listens."""
        self._seen = None
        while self._feeds:
            try:
                await self.look()
            except Exception:
                log.exception("events.not_seen")
            await asyncio.sleep(LOOK_SECONDS)
        self._looking = None


class StoredEvents:
    """The events in the database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def newest(self, after: int | None) -> Mapping[str, int]:
        """See Events."""
        async with self.database.read() as session:
            jobs = JobRepository(session)
            last = await jobs.last_event() - OVERLAP if after is None else after
            return await jobs.newest_events(last)

    async def news(
        self, tenant_id: str, job_id: str, seq: int, limit: int
    ) -> tuple[Sequence[JobEventRow], bool]:
        """See Events."""
        async with self.database.read() as session:
            rows, status = await JobRepository(session).news(tenant_id, job_id, seq, limit + 1)
        return rows[:limit], len(rows) <= limit and is_terminal(status)
