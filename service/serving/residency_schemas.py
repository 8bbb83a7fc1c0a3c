"""What the operator sees of the engine's places for adapters, and changes."""

from typing import Annotated, Literal

from msgspec import Meta

from service.adapters.adapters_schemas import Held, Parity
from service.wire import Input, Output


class SetPinned(Input):
    """Whether a revision is to stay resident."""

    pinned: bool


class ResidentRevision(Output):
    """A revision that has a place in the engine, or is pinned."""

    object: str
    tenant: str
    adapter: str
    digest: str
    model: Annotated[str | None, Meta(description="Its exact name; null if deleted or rejected.")]
    engine_id: Annotated[int | None, Meta(description="The number by which engines know it.")]
    state: Literal["absent", "loading", "resident"]
    pinned: bool
    in_use: Annotated[int, Meta(description="Sequences that are generated with it now.")]
    hits: Annotated[int, Meta(description="Requests that found it resident since it was loaded.")]
    load_seconds: Annotated[float | None, Meta(description="Null unless it is resident.")]
    last_used_at: int | None
    parity: Annotated[Parity | None, Meta(description="Null unless its files are whole.")]


class ResidencyTotals(Output):
    """Counts, from `hits` on since the engine started."""

    resident: int
    loading: int
    pinned: int
    hits: int
    misses: int
    loads: int
    load_failures: int
    load_seconds: float
    evictions: int


class Residency(Output):
    """The engine's places for adapters, the least recently used first."""

    object: str
    places: Annotated[int, Meta(description="LOREHOUSE_MAX_RESIDENT_ADAPTERS")]
    held: Annotated[Held | None, Meta(description="How the base is held.")]
    totals: ResidencyTotals
    data: list[ResidentRevision]
