"""What a job takes of a device's memory, here and on common cards, and who shares it. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

from service.base.card_sharing import HALF, RESERVED, Card, NoRoom, share
from service.base.hardware import Hardware
from service.base.memory_plan import ENOUGH_TOKENS, Demand, Held, by_part, plan
from service.base.model_shape import ModelShape, UnknownShape, shape_of
from service.base.wanted import Sharing
from service.jobs.plan_schemas import MemoryByPart, PlannedDevice, SharedCard
from service.training.counting import Total
from service.training.spec import TrainingSpec

MIB = 2**20
CARDS = {
    "NVIDIA GeForce RTX 4090 24 GB": 24564 * MIB,
    "NVIDIA A100 40 GB": 40960 * MIB,
    "NVIDIA L40S 48 GB": 46068 * MIB,
    "NVIDIA H100 80 GB": 81559 * MIB,
    "NVIDIA H200 141 GB": 143771 * MIB,
}
"""Bytes, as the cards' driver reports them."""
FIGURES = [name for name in SharedCard.__struct_fields__ if name != "reason"]


def known_shape(config: Mapping[str, Any]) -> ModelShape | None:
    """Read a base's config; None where nobody could tell its memory beforehand."""
    try:
        return shape_of(config)
    except UnknownShape:
        return None


def on_cards(
    model: ModelShape, spec: TrainingSpec, train: Total | None, sharing: Sharing
) -> list[PlannedDevice]:
    """Say what the job takes of each card, and how vLLM and training would share it."""
    return [
        _device(name, memory, "cuda", HALF, model, spec, train, split(model, memory, sharing))
        for name, memory in CARDS.items()
    ]


def on(one: Hardware, model: ModelShape, spec: TrainingSpec, train: Total | None) -> PlannedDevice:
    """Say what the job takes of a device that is there, of which training has its share already."""
    return _device(one.name, one.free, one.device, one.each, model, spec, train, None)


def split(model: ModelShape, memory: int, sharing: Sharing) -> SharedCard:
    """Say how vLLM and the resident base share an empty card."""
    # A machine with such a card has as much main memory.
    card = Card(total=memory, free=memory - RESERVED, host_free=memory)
    found = share(model, card, sharing.served, sharing.held, sharing.demand)
    if isinstance(found, NoRoom):
        return SharedCard(reason=found.figures, **dict.fromkeys(FIGURES))
    return SharedCard(
        together=found.together,
        gpu_memory_utilization=found.utilization,
        kv_tokens=found.kv_tokens,
        training_bytes=found.training_bytes,
        tokens_in_row=found.training.tokens_at_once,
        longest_tokens=found.training.longest_tokens,
        reason=None,
    )


def _device(
    name: str,
    memory: int,
    device: Literal["cpu", "cuda"],
    each: int,
    model: ModelShape,
    spec: TrainingSpec,
    train: Total | None,
    shared: SharedCard | None,
) -> PlannedDevice:
    return PlannedDevice(
        name=name,
        bytes=memory,
        nf4=_parts(model, Held("nf4", each, device), memory, spec, train),
        bf16=_parts(model, Held("none", HALF, device), memory, spec, train),
        shared=shared,
    )


def _parts(
    model: ModelShape, held: Held, memory: int, spec: TrainingSpec, train: Total | None
) -> MemoryByPart:
    """Plan a device for this one job, whose largest step's examples go through it together.

    As the service does it, its slot has room for every linear layer.
    """
    longest = (train.longest if train else 0) or spec.max_length
    step = (train.most_at_once(spec.batch_size) if train else 0) or longest
    demand = Demand(
        targets=frozenset(model.linears),
        training_slots=1,
        training_rank=spec.lora.rank,
        # A way that cannot hold its longest example is none for this job, however quick.
        enough_tokens=max(longest, min(step, ENOUGH_TOKENS)),
    )
    planned = plan(model, held, demand, memory)
    row = max(longest, min(step, planned.tokens_at_once))
    taken = by_part(planned, spec.lora, row)
    # The other methods go through libraries whose needs nobody measured.
    known = spec.method == "supervised"
    return MemoryByPart(
        base=taken.base,
        adapters=taken.adapters,
        optimizer=taken.optimizer,
        activations=taken.activations if known else None,
        total=taken.total if known else None,
        fits=taken.total <= planned.available if known else None,
        tokens_in_row=row if known else None,
        weights_cached=planned.keeps_dequantised,
        recomputes=planned.recomputes,
    )
