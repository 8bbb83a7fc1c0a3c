"""A job's events as server-sent events."""

from collections.abc import AsyncGenerator, Sequence

import msgspec

from service.database.models import JobEventRow
from service.jobs.streaming import HEARTBEAT, encoded


def event(number: int) -> JobEventRow:
    return JobEventRow(
        id=f"ftevent-{number}",
        created_at=number,
        level="info",
        type="message",
        message="x",
        data=None,
    )


class Source:
    """Batches, and whether they were closed."""

    def __init__(self, *batches: list[JobEventRow]) -> None:
        self.batches = batches
        self.closed = False

    async def follow(self) -> AsyncGenerator[Sequence[JobEventRow], None]:
        try:
            for batch in self.batches:
                yield batch
        finally:
            self.closed = True


async def test_each_event_carries_its_id_and_the_stream_says_when_it_is_over() -> None:
    source = Source([event(1), event(2)], [], [event(3)])
    pieces = [piece async for piece in encoded(source.follow())]
    events = [piece for piece in pieces if piece.startswith(b"id: ")]
    assert [piece.split(b"\n")[0] for piece in events] == [
        b"id: ftevent-1",
        b"id: ftevent-2",
        b"id: ftevent-3",
    ]
    assert msgspec.json.decode(events[0].split(b"data: ")[1])["object"] == "fine_tuning.job.event"
    assert pieces[-1] == b"data: [DONE]\n\n"
    assert pieces[2] == HEARTBEAT


async def test_closing_the_stream_closes_its_source() -> None:
    source = Source([event(1)], [event(2)])
    stream = encoded(source.follow())
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert source.closed
