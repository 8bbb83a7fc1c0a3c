"""One card for vLLM, which answers, and for the resident base, on which jobs are trained. Pure.

    shared = share(model, card, served, held, demand)

Both at once where both fit. Else in turns: vLLM sleeps while jobs are trained, with what it holds
in main memory, and training keeps base and slots alone while vLLM answers. Else the figures say
what is missing. vLLM is started first: it takes a share of the whole card, and measures what it
leaves of it for its cache.
"""

import math
from typing import Literal

import msgspec

from service.base.memory_plan import GIB, NF4, SPARE, Demand, Held, MemoryPlan, gib, plan
from service.base.model_shape import ModelShape

HALF = 2
"""Bytes of a number in 16 bit, as vLLM's adapters, keys, values and activations are."""
OVERHEAD = 2 * GIB
"""The CUDA context of vLLM's process and its captured graphs, which stay while it sleeps."""
RESERVED = GIB
"""For the CUDA contexts of training's process, and whatever else a card is used for."""
PARTS_OF_CARD = 1000
"""`gpu_memory_utilization` is given in as many parts."""
KV_SHARE = 0.5
"""Of what neither needs at the least; the rest of it is training's."""
HOST_SPARE = 1.1
"""Main memory that is to be free for each byte that moves there."""


class Card(msgspec.Struct, frozen=True):
    """A GPU, and the machine around it, in bytes."""

    total: int
    free: int
    host_free: int


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What vLLM is to hold."""

    quantization: Literal["none", "fp8", "nf4"]
    slots: int
    """For adapters, a guard's included."""
    rank: int
    """Every slot has room for it, on every linear layer."""
    context: int
    """Tokens of the longest request: the cache holds one of them at the least."""
    sequences: int
    batched_tokens: int = 8192
    """In one step."""


class ServedParts(msgspec.Struct, frozen=True):
    """What vLLM takes, in bytes, without its cache."""

    weights: int
    adapters: int
    working: int
    """Activations of one step, the logits that are sampled from, context and graphs."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.adapters + self.working


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """How a card is split."""

    together: bool
    """Whether both work at once; else one sleeps."""
    utilization: float
    """vLLM's `gpu_memory_utilization`."""
    served: ServedParts
    kv_tokens: int
    training_bytes: int
    """What the resident base may take while it trains."""
    training: MemoryPlan


class NoRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Why a card cannot be shared, in bytes."""

    served: int
    """The least that vLLM can do with."""
    resident: int
    """The least that training keeps while vLLM answers."""
    training: int
    """The least that it can do with while vLLM sleeps."""
    free: int
    host: int
    """What vLLM puts into main memory to sleep."""
    host_free: int

    @property
    def needed(self) -> int:
        """The least that would do, in turns."""
        return max(self.served + self.resident, self.training + OVERHEAD)

    @property
    def sleeps(self) -> bool:
        """Whether main memory has room for a sleeping vLLM."""
        return self.host <= self.host_free

    @property
    def figures(self) -> str:
        """Say all of them."""
        if self.needed <= self.free:
            needed = self.served + self.training
            sleeping = (
                f", or {gib(self.host)} of main memory to take turns, of {gib(self.host_free)}"
            )
        else:
            needed, sleeping = self.needed, ""
        return (
            f"{gib(needed)} are needed, {gib(self.free)} are free{sleeping}: vLLM takes "
            f"{gib(self.served)} at the least, the resident base {gib(self.resident)} beside it, "
            f"and {gib(self.training)} while it trains"
        )


def share(
    model: ModelShape, card: Card, served: Served, held: Held, demand: Demand
) -> Shared | NoRoom:
    """Split a card between vLLM and training on the base that is `held` here."""
    parts, kv_each = served_parts(model, served), model.kv_bytes(HALF)
    training, resident = least_training(model, held, demand), _at_rest(model, held, demand)
    needed = NoRoom(
        served=_whole_parts(parts.total + kv_each * served.context, card.total),
        resident=resident,
        training=training,
        free=card.free,
        host=round((parts.weights + parts.adapters) * HOST_SPARE),
        host_free=card.host_free,
    )
    together = needed.served + training <= card.free
    if not together and not (needed.needed <= card.free and needed.sleeps):
        return needed
    # Together, what nobody needs is divided; in turns vLLM has all that does not stay.
    spare = card.free - needed.served - (training if together else resident)
    most = parts.total + kv_each * served.context * served.sequences
    wanted = min(most, needed.served + int(spare * (KV_SHARE if together else 1)))
    taken = max(needed.served, _whole_parts(wanted, card.total, down=True))
    left = card.free - (taken if together else OVERHEAD)
    return Shared(
        together=together,
        utilization=taken * PARTS_OF_CARD // card.total / PARTS_OF_CARD,
        served=parts,
        kv_tokens=(taken - parts.total) // kv_each,
        training_bytes=left,
        training=plan(model, held, demand if together else _uncached(demand), left),
    )


def served_parts(model: ModelShape, served: Served) -> ServedParts:
    """Say what vLLM takes besides its cache. By its sources; `working` is an estimate."""
    linears, others = model.linear_parameters, model.other_parameters
    each = {"none": HALF, "fp8": 1, "nf4": NF4}[served.quantization]
    adapter = model.adapter_parameters(served.rank, model.linears)
    widths = 3 * model.intermediate + 4 * model.hidden + model.queries + 2 * model.keys
    # Sampling has them in fp32, sorted, and their places in 64 bits.
    logits = served.sequences * model.vocabulary * (4 + 4 + 8)
    largest = max(a * b for a, b in model.linears.values()) if served.quantization == "nf4" else 0
    return ServedParts(
        weights=round(linears * each) + others * HALF,
        adapters=served.slots * adapter * HALF,
        working=served.batched_tokens * widths * HALF + logits + largest * HALF + OVERHEAD,
    )


def least_training(model: ModelShape, held: Held, demand: Demand) -> int:
    """Give the bytes that a base needs to train in rows that are long enough, however slowly."""
    bare = plan(model, held, _uncached(demand), 0)
    rows = demand.enough_tokens * bare.recomputed_per_token
    return math.ceil((bare.fixed + rows + _examined(bare)) / (1 - SPARE))


def _at_rest(model: ModelShape, held: Held, demand: Demand) -> int:
    """Tell what stays on the card while nothing is trained."""
    bare = plan(model, held, _uncached(demand), 0)
    slots = bare.training_slots + bare.serving_slots
    return math.ceil((bare.base + slots + _examined(bare)) / (1 - SPARE))


def _examined(planned: MemoryPlan) -> int:
    """Tell what the cache of the engine takes that examines what is trained."""
    demand = planned.demand
    return demand.kv_tokens * planned.kv_per_token if demand.serving_slots else 0


def _uncached(demand: Demand) -> Demand:
    return msgspec.structs.replace(demand, caches=False)


def _whole_parts(wanted: int, total: int, *, down: bool = False) -> int:
    """Round bytes to a share of the card that can be told to vLLM."""
    parts = wanted * PARTS_OF_CARD // total if down else -(-wanted * PARTS_OF_CARD // total)
    return -(-parts * total // PARTS_OF_CARD)
