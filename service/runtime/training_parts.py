"""What working on jobs needs; picked in `process.run`, and by tests."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from adapters_store import AdapterStore
from service.base.description import BaseDescription
from service.database import Database
from service.rendering.examples import Example
from service.runtime.backoff import Backoff
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.metrics import RuntimeMetrics, unread
from service.runtime.speeds import Speeds
from service.serving.engine import Engine
from service.tenants.quotas import Quotas
from service.training.trainer import Trainer


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a runtime that trains."""

    owner: str
    """Holds the leases."""
    lease_seconds: float
    database: Database
    store: AdapterStore
    base: BaseDescription
    quantization: str
    """How the base is held here: `nf4` or `none`."""
    compute_dtype: str
    trainers: Mapping[str, Trainer]
    """By method."""
    gate: Gatekeeper
    at_once: int
    """How many jobs may be worked on."""
    quotas: Quotas
    """What of them may be one tenant's."""
    healthy: Callable[[], bool]
    """Whether the device still computes, after a fault of ours."""
    workdirs: Path
    """One folder for each job in it."""
    examples: Callable[[str, str], Awaitable[list[Example]]]
    """By tenant and file id."""
    retries: Backoff = Backoff(first=2.0, longest=60.0)
    """How long a job rests after a fault of ours."""
    engine: Engine
    """What answers requests: here, or in another process."""
    metrics: RuntimeMetrics = msgspec.field(default_factory=unread)
    speeds: Speeds = msgspec.field(default_factory=Speeds)
    """How quick training was."""
