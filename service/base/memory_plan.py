"""What a base, its slots and its rows of tokens will take of a device's memory. Pure.

    planned = plan(shape_of(config), held, demand, free)
    refusal = admit(planned, spec.lora, longest)
    taken = by_part(planned, spec.lora, tokens)

The first decides, once and before anything is loaded, how the base is run; the second, of each job,
whether it could ever be trained so; the third says what a row of its tokens takes then. What nobody
foresaw is met where it happens: rows are halved.
"""

from collections.abc import Collection, Iterator
from typing import Literal, Protocol

import msgspec

from service.base.model_shape import EXACT, ModelShape

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight: 4 bits, one byte for 64, and a second scale in fp32 for 256 of those."""
TRAINING = 4 * EXACT
"""Bytes of a number that is trained: itself, its gradient and two moments."""
SPARE = 0.1
"""The share of free memory that is left for fragments, kernels and whoever else is there."""
LOGITS_AT_ONCE = {"cpu": 2**17, "cuda": 2**27}
"""As in segmented/loss.py."""
ENOUGH_TOKENS = 4096
GIB = 2**30


class LoraShape(Protocol):
    """What of an adapter's shape takes memory; a training spec's `lora` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def target_modules(self) -> Collection[str]: ...


class Held(msgspec.Struct, frozen=True):
    """How the base is held."""

    quantization: Literal["nf4", "none"]
    each: int
    """Bytes of a number in the dtype that is computed in."""
    device: Literal["cpu", "cuda"]

    @property
    def fused(self) -> bool:
        """Whether norms, gates and the loss have kernels of their own."""
        return self.device == "cuda"


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What the device is to do at the same time; without serving slots it only trains."""

    targets: frozenset[str]
    """What adapters may target, and slots have room for."""
    training_slots: int = 0
    training_rank: int = 16
    serving_slots: int = 0
    serving_rank: int = 16
    kv_tokens: int = 0
    """The most that could be of use: rows in a batch, each of the whole context."""
    kv_share: float = 0.4
    """Of what base and slots leave, at most, for keys and values."""
    most_tokens: int = 16384
    """In a training row: more are not faster."""
    enough_tokens: int = ENOUGH_TOKENS
    """In a training row: rather than fewer, compute more and keep less."""
    longest_tokens: int = 0
    """Of an example that is to be trained on, whatever is given up for it."""
    caches: bool = True
    """Whether 4-bit weights may be kept dequantised."""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All in bytes, but for the tokens and the two decisions."""

    model: ModelShape
    held: Held
    demand: Demand
    available: int
    """What may be used; see SPARE."""
    base: int
    cache: int
    """Of the 4-bit weights dequantised, if they are kept so."""
    dequantised: int
    """The largest of them, while it is used, if they are not."""
    training_slots: int
    serving_slots: int
    loss: int
    """While some rows' logits are compared."""
    kv_per_token: int
    kept_per_token: int
    """Of a training row without recomputation."""
    recomputed_per_token: int
    """With it."""
    keeps_dequantised: bool
    recomputes: bool
    """In every row; else in those alone that would not fit otherwise."""
    tokens_at_once: int
    """Of a training row; 0: not even one fits."""
    kv_tokens: int

    @property
    def fixed(self) -> int:
        """What is taken whatever is trained."""
        slots = self.training_slots + self.serving_slots
        return self.weights + slots + self.loss + self.kv_tokens * self.kv_per_token

    @property
    def weights(self) -> int:
        """The base's, and those of them that are dequantised at the time."""
        return self.base + (self.cache if self.keeps_dequantised else self.dequantised)

    @property
    def kept_tokens(self) -> int:
        """The most of a row that needs no recomputation."""
        return 0 if self.recomputes else self._left // self.kept_per_token

    @property
    def longest_tokens(self) -> int:
        """The most of a row, with it or without: of one layer it keeps more than it spares."""
        return max(self.kept_tokens, self._left // self.recomputed_per_token)

    @property
    def _left(self) -> int:
        return max(0, self.available - self.fixed)

    def recomputes_row(self, tokens: int) -> bool:
        """Tell whether a row's layers are computed again on the way back."""
        return tokens > self.kept_tokens


class Parts(msgspec.Struct, frozen=True):
    """What is in use at the most while a row is trained on, in bytes, without keys and values."""

    base: int
    """Its weights, and those of them that are dequantised at the time."""
    adapters: int
    """The slots' weights."""
    optimizer: int
    """Their gradients and moments."""
    activations: int
    """What the row keeps and works with, and the logits that are compared at a time."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.adapters + self.optimizer + self.activations


class Refusal(msgspec.Struct, frozen=True):
    """Why a job cannot be trained here, in bytes."""

    cause: Literal["adapter", "example"]
    needed: int
    available: int

    @property
    def figures(self) -> str:
        """Say both."""
        return f"{gib(self.needed)} are needed, {self.available / GIB:.2f} are available"


def gib(amount: int) -> str:
    """Say how many bytes."""
    return f"{amount / GIB:.2f} GiB"


def plan(model: ModelShape, held: Held, demand: Demand, free: int) -> MemoryPlan:
    """Decide how to run a base on a device of which `free` bytes are free before it is loaded.

    Of the ways to do it, the first that holds the longest example and has enough tokens in a row is
    taken: from the quickest, that keeps most, to the slowest; and if none does, the one that comes
    closest.
    """

    def reached(way: MemoryPlan) -> tuple[int, int]:
        longest = min(way.longest_tokens, demand.longest_tokens)
        return longest, min(way.tokens_at_once, demand.enough_tokens)

    return max(ways(model, held, demand, free), key=reached)


def ways(model: ModelShape, held: Held, demand: Demand, free: int) -> Iterator[MemoryPlan]:
    """Give every way to run a base, the quickest first."""
    first = _parts(model, held, demand, free)
    for recomputes in (False, True):
        for keeps in (True, False) if held.quantization == "nf4" and demand.caches else (False,):
            yield _way(first, keeps_dequantised=keeps, recomputes=recomputes)


def by_part(planned: MemoryPlan, shape: LoraShape, tokens: int) -> Parts:
    """Say what takes how much while a row of `tokens` goes through adapters of this shape."""
    adapters = planned.training_slots * EXACT // TRAINING
    return Parts(
        base=planned.weights,
        adapters=adapters + planned.serving_slots,
        optimizer=planned.training_slots - adapters,
        activations=planned.loss
        + tokens * _per_token(planned, shape, recomputes=planned.recomputes_row(tokens)),
    )


def admit(planned: MemoryPlan, shape: LoraShape, longest: int) -> Refusal | None:
    """Tell why an adapter of this shape can never learn an example of `longest` tokens, if so.

    Counted is that example alone in a row whose layers are computed again, and one slot more for an
    adapter that is wider than the slots that there are.
    """
    available = planned.available
    numbers = planned.model.adapter_parameters(shape.rank, shape.target_modules)
    wider = shape.rank > planned.demand.training_rank or not planned.demand.training_slots
    adapter = planned.fixed + (numbers * TRAINING if wider else 0)
    token = min(_per_token(planned, shape, recomputes=way) for way in (planned.recomputes, True))
    if adapter + token > available:
        return Refusal("adapter", adapter + token, available)
    needed = adapter + longest * token
    return Refusal("example", needed, available) if needed > available else None


def _per_token(planned: MemoryPlan, shape: LoraShape, *, recomputes: bool) -> int:
    held, targets = planned.held, shape.target_modules
    return planned.model.per_token(
        shape.rank, targets, held.each, recomputes=recomputes, fused=held.fused
    )


def _parts(model: ModelShape, held: Held, demand: Demand, free: int) -> MemoryPlan:
    """Say what everything takes, before anything is decided."""
    each, targets = held.each, demand.targets
    trained = model.adapter_parameters(demand.training_rank, targets) * demand.training_slots
    served = model.adapter_parameters(demand.serving_rank, targets) * demand.serving_slots
    quantised = held.quantization == "nf4"
    weight = NF4 if quantised else each
    kept, recomputed = (
        model.per_token(
            demand.training_rank, targets, each, recomputes=recomputes, fused=held.fused
        )
        for recomputes in (False, True)
    )
    largest = max(a * b for a, b in model.linears.values())
    return MemoryPlan(
        model=model,
        held=held,
        demand=demand,
        available=int(free * (1 - SPARE)),
        base=round(model.linear_parameters * weight) + model.other_parameters * each,
        cache=model.linear_parameters * each if quantised else 0,
        dequantised=largest * each if quantised else 0,
        training_slots=trained * TRAINING,
        serving_slots=served * each,
        # Fused it is done in place; else there are the logits, their logarithm, and a copy of it.
        loss=max(LOGITS_AT_ONCE[held.device], model.vocabulary)
        * (each if held.fused else EXACT + 2 * each),
        kv_per_token=model.kv_bytes(each),
        kept_per_token=kept,
        recomputed_per_token=recomputed,
        keeps_dequantised=False,
        recomputes=False,
        tokens_at_once=0,
        kv_tokens=0,
    )


def _way(parts: MemoryPlan, *, keeps_dequantised: bool, recomputes: bool) -> MemoryPlan:
    """Fill the rest with keys and values, and with tokens to train on."""
    demand = parts.demand
    # Before weights are kept dequantised: those have to leave enough for the others.
    share = int(max(0, parts.available - parts.fixed) * demand.kv_share)
    most = min(demand.kv_tokens, share // parts.kv_per_token) if demand.serving_slots else 0
    way = msgspec.structs.replace(
        parts, keeps_dequantised=keeps_dequantised, recomputes=recomputes, kv_tokens=most
    )
    tokens = way.longest_tokens if recomputes else way.kept_tokens
    return msgspec.structs.replace(way, tokens_at_once=min(demand.most_tokens, tokens))
