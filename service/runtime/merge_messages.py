"""What a runtime and the process that merges for it say to each other: one line of JSON each."""

from typing import Any

import msgspec

from adapters_store import MergedRef
from service.adapters.merges_schemas import BaseWeights, MergeFault


class MergeOrder(msgspec.Struct, frozen=True):
    """What to merge, and under which name to publish it."""

    ref: MergedRef
    base_weights: BaseWeights


class MergeOutcome(msgspec.Struct, frozen=True):
    """What came of it: a `MergeResult` of files that are published, or why trying again is vain."""

    result: dict[str, Any] | None = None
    error: MergeFault | None = None
