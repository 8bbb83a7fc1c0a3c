"""Whoever follows a job is told each event once, in order, whatever happens meanwhile."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.database.models import JobEventRow
from service.errors import NotFound
from service.jobs.following import Hub

JOBS = ("ftjob-a", "ftjob-b")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(JOBS), st.integers(1, 4)),
        st.tuples(st.just("commit"), st.sampled_from(JOBS)),
        st.tuples(st.just("look")),
        st.tuples(st.just("follow"), st.sampled_from(JOBS), st.integers(0, 10)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("pass"), st.integers(1, 5)),
    ),
    max_size=40,
)


class Story:
    """Jobs' events. Numbers are given when a transaction begins, and seen when it commits.

    Of one job a transaction at a time: its row is locked. A read sees one moment, and its answer
    comes some turns of the loop later.
    """

    def __init__(self, delays: random.Random | None = None) -> None:
        self.seen: dict[str, list[JobEventRow]] = {job: [] for job in JOBS}
        self.open: dict[str, list[JobEventRow]] = {job: [] for job in JOBS}
        self.ended: set[str] = set()
        self.last = 0
        self.delays = delays
        self.reads = 0

    def begin(self, job: str, count: int) -> None:
        if not self.open[job]:
            self.open[job] = [self._event() for _ in range(count)]

    def commit(self, job: str) -> None:
        self.seen[job] += self.open[job]
        self.open[job] = []

    def end(self) -> None:
        for job in JOBS:
            self.begin(job, 1)
            self.commit(job)
            self.ended.add(job)

    async def newest(self, after: int | None) -> Mapping[str, int]:
        self.reads += 1
        told = {job: rows[-1].seq for job, rows in self.seen.items() if rows}
        await self._delay()
        return {job: seq for job, seq in told.items() if after is None or seq > after}

    async def news(
        self, tenant_id: str, job_id: str, seq: int, limit: int
    ) -> tuple[Sequence[JobEventRow], bool]:
        self.reads += 1
        if job_id not in self.seen:
            raise NotFound("gone")
        rows = [row for row in self.seen[job_id] if row.seq > seq]
        ended = job_id in self.ended
        await self._delay()
        return rows[:limit], ended and len(rows) <= limit

    async def _delay(self) -> None:
        for _ in range(self.delays.randrange(4) if self.delays else 0):
            await asyncio.sleep(0)

    def _event(self) -> JobEventRow:
        self.last += 1
        return JobEventRow(seq=self.last)


class Listener:
    """Follows, and notes the numbers of what it was told."""

    def __init__(self, hub: Hub, job: str, after: int) -> None:
        self.job, self.after = job, after
        self.told: list[int] = []
        self.task = asyncio.create_task(self._listen(hub))

    async def _listen(self, hub: Hub) -> None:
        async for rows in hub.follow("acme", self.job, self.after):
            self.told += [row.seq for row in rows]


class Scene:
    """Some who follow, and what happens meanwhile."""

    def __init__(self, story: Story, hub: Hub) -> None:
        self.story = story
        self.hub = hub
        self.listeners: list[Listener] = []

    async def play(self, verb: str, *args: Any) -> None:
        match verb:
            case "begin" | "commit":
                getattr(self.story, verb)(*args)
            case "look":
                await self.hub.look()
            case "follow":
                self._follow(*args)
            case "leave" if self.listeners:
                self.listeners.pop(args[0] % len(self.listeners)).task.cancel()
            case "pass":
                for _ in range(args[0]):
                    await asyncio.sleep(0)

    async def end(self) -> None:
        self.story.end()
        async with asyncio.timeout(10):
            while not all(one.task.done() for one in self.listeners):
                await self.hub.look()
                await asyncio.sleep(0)

    def _follow(self, job: str, place: int) -> None:
        rows = self.story.seen[job][:place]
        self.listeners.append(Listener(self.hub, job, rows[-1].seq if rows else 0))


@given(steps, st.integers(0, 2**32), st.integers(1, 4))
def test_nothing_is_lost_or_doubled(drawn: list[tuple[Any, ...]], seed: int, kept: int) -> None:
    async def live() -> None:
        story = Story(random.Random(seed))
        scene = Scene(story, Hub(story, kept=kept, batch=3))
        for step in drawn:
            await scene.play(*step)
        await scene.end()
        for one in scene.listeners:
            await one.task
            expected = [row.seq for row in story.seen[one.job] if row.seq > one.after]
            assert one.told == expected

    asyncio.run(live())


async def test_one_look_serves_thousands_who_wait() -> None:
    story = Story()
    hub = Hub(story)
    listeners = [Listener(hub, JOBS[0], 0) for _ in range(2000)]
    await asyncio.sleep(0)
    await hub.look()
    story.begin(JOBS[0], 2)
    story.commit(JOBS[0])
    await hub.look()
    await asyncio.sleep(0)
    assert all(one.told == [1, 2] for one in listeners)
    # The hub looks by itself as well, now and then.
    assert story.reads < 20
    for one in listeners:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in listeners), return_exceptions=True)


async def test_an_event_whose_number_is_lower_than_what_others_saw_is_told() -> None:
    story = Story()
    hub = Hub(story)
    listener = Listener(hub, JOBS[0], 0)
    story.begin(JOBS[0], 1)
    story.begin(JOBS[1], 5)
    story.commit(JOBS[1])
    await asyncio.sleep(0)
    await hub.look()
    story.commit(JOBS[0])
    await hub.look()
    await asyncio.sleep(0)
    assert listener.told == [1]
    story.end()
    await hub.look()
    await listener.task


async def test_who_follows_what_is_erased_is_told_so() -> None:
    story = Story()
    hub = Hub(story)
    listener = Listener(hub, JOBS[0], 0)
    await asyncio.sleep(0)
    story.begin(JOBS[0], 1)
    story.commit(JOBS[0])
    newest = await story.newest(None)
    del story.seen[JOBS[0]]
    story.newest = AsyncAnswer(newest)  # type: ignore[method-assign]
    await hub.look()
    with pytest.raises(NotFound):
        await listener.task


async def test_a_closed_hub_looks_no_more() -> None:
    story = Story()
    story.newest = reading = Reading()  # type: ignore[method-assign]
    hub = Hub(story)
    listener = Listener(hub, JOBS[0], 0)
    await reading.begun.wait()
    listener.task.cancel()
    await asyncio.gather(listener.task, return_exceptions=True)
    assert reading.at_it
    await hub.close()
    assert not reading.at_it


class Reading:
    """Reads until it is cancelled; to put its session away takes a turn then."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.at_it = False

    async def __call__(self, after: int | None) -> Mapping[str, int]:
        self.at_it = True
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.at_it = False
        return {}


class AsyncAnswer:
    """Answers what was so a moment ago."""

    def __init__(self, answer: Mapping[str, int]) -> None:
        self.answer = answer

    async def __call__(self, after: int | None) -> Mapping[str, int]:
        return self.answer
