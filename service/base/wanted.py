"""What the settings ask of a device. Pure."""

from typing import Literal

import msgspec

from service.base.card_sharing import HALF, Served
from service.base.memory_plan import Demand, Held
from service.base.model_shape import ModelShape
from service.settings import Settings

MOST_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Of a training row. On a CPU longer ones are not quicker."""
EXAMINED, EXAMINED_AT_ONCE, EXAMINING_TOKENS = 2, 8, 4096
"""Adapters, sequences and tokens of an engine that only examines what is trained here."""
GUARDS = 1
"""Slots of vLLM's that hold no adapter."""
LEAST_RANK = 8
"""Of vLLM's slots: its ranks are this and what doubling gives."""


class Sharing(msgspec.Struct, frozen=True):
    """What vLLM and the resident base want of the card that they share."""

    served: Served
    held: Held
    demand: Demand


def demand(
    settings: Settings,
    model: ModelShape,
    context: int,
    device: Literal["cpu", "cuda"],
    *,
    sequences: int,
    trains: bool,
    generates: bool,
) -> Demand:
    """Say what the resident base is to do; `sequences` are generated at once."""
    return Demand(
        targets=frozenset(model.linears),
        training_slots=settings.training_slots if trains else 0,
        serving_slots=(settings.max_resident_adapters if generates else EXAMINED) + 1,
        kv_tokens=(settings.kv_tokens or sequences * context) if generates else EXAMINING_TOKENS,
        most_tokens=MOST_TOKENS[device],
        # Longer ones too, as far as there is room, but nothing that is quick is given up for them.
        longest_tokens=min(context, MOST_TOKENS[device]) if trains else 0,
    )


def sharing(settings: Settings, context: int, sequences: int, model: ModelShape) -> Sharing:
    """Say what vLLM is to hold, and what the resident base trains beside it."""
    # Beside vLLM there is less room than `auto` would see.
    held = Held("none" if settings.quantization == "none" else "nf4", HALF, "cuda")
    wanted = demand(
        settings, model, context, "cuda", sequences=sequences, trains=True, generates=False
    )
    served = Served(
        quantization=settings.vllm_quantization,
        slots=settings.max_resident_adapters + GUARDS,
        rank=max(LEAST_RANK, 1 << (settings.max_lora_rank - 1).bit_length()),
        # What fills the context is scored by asking for one token more.
        context=context + 1,
        sequences=sequences,
    )
    return Sharing(served, held, wanted)
