"""The parts that stand on a base, each made by the settings. Only runtime processes have torch."""

import os
from typing import Any

import msgspec

from service.adapters.storing import adapter_store
from service.base.hardware import Hardware
from service.base.memory_plan import GIB, Held, MemoryPlan, plan
from service.base.model_shape import UnknownShape, shape_of
from service.base.wanted import (
    EXAMINED,
    EXAMINED_AT_ONCE,
    EXAMINING_TOKENS,
    MOST_TOKENS,
    demand,
)
from service.rendering.renderer import Renderer
from service.runtime import card_split
from service.runtime.conductor import Conductor, Turned
from service.runtime.shares import Shares
from service.runtime.stalls import Stalls
from service.serving.admission import at_once
from service.settings import Settings
from service.telemetry import logger
from service.training.refusing import RefusingTrainer
from service.training.trainer import Trainer

CALM_TOKENS = {"cpu": 512, "cuda": None}
"""Of a training row while nobody asks, but lately did: the next to ask meets such a row. Longer
ones make the longest gaps longer; on a GPU a pause waits for two layers at most all the same."""

ONLY_IN_TURNS = (
    "This method needs memory all the time, and this server's card has it only in turns with vLLM"
)

_log = logger(__name__)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded base, and what is known of the memory around it."""

    settings: Settings
    renderer: Renderer
    loaded: Any
    """A LoadedBase."""
    base: Any
    """The SegmentedBase that it is run as."""
    free: int
    """Bytes of the device before it was loaded."""
    memory: MemoryPlan | None
    in_turns: bool
    """Whether it may train only while vLLM sleeps, on the same card."""

    @property
    def tokens_at_once(self) -> int:
        """Most tokens of a training row."""
        if self.memory is None:
            return MOST_TOKENS[self.loaded.device]
        return max(1, self.memory.tokens_at_once)


def on_a_card() -> bool:
    """Tell whether a base would be on a GPU; the first call imports torch."""
    from service.base.loading import total_memory

    return total_memory() is not None


def load(settings: Settings, renderer: Renderer, *, trains: bool, generates: bool) -> Ground:
    """Load the base, and plan the memory that is left. Raises BaseModelError and CardTooSmall."""
    from service.base.loading import free_memory, keep_within, load_base, total_memory
    from service.base.segmented.base import SegmentedBase

    total = total_memory() if settings.engine == "vllm" and not generates else None
    split = card_split.split(settings, renderer.base, total) if total else None
    free, quantization = free_memory(), settings.quantization
    if split is not None:
        free, quantization = split.training_bytes, split.training.held.quantization
        keep_within(free)
    loaded = load_base(renderer.base, quantization, threads(settings), settings.compute_dtype)
    if split is not None:
        memory: MemoryPlan | None = split.training
    else:
        memory = _planned(settings, loaded, free, trains=trains, generates=generates)
    cached = memory is not None and memory.keeps_dequantised
    return Ground(
        settings=settings,
        renderer=renderer,
        loaded=loaded,
        base=SegmentedBase(loaded.model, cache_weights=cached),
        free=free,
        memory=memory,
        in_turns=split is not None and not split.together,
    )


def conductor(ground: Ground, turned: Turned) -> Conductor:
    """Make who gives turns on the base."""
    from service.base.segmented.pace import Pace

    settings = ground.settings
    return Conductor(
        Shares(settings.training_share),
        Stalls(settings.max_stall_ms / 1000),
        ground.tokens_at_once,
        calm_tokens=CALM_TOKENS[ground.loaded.device],
        pace=Pace(ground.base.device),
        turned=turned,
    )


def engine(ground: Ground, *, generates: bool) -> Any:
    """Make a ResidentEngine: to answer requests, or only to examine what is trained."""
    from service.serving.resident_engine import ResidentEngine

    settings, memory = ground.settings, ground.memory
    kv_tokens = settings.kv_tokens or (memory.kv_tokens if memory is not None else 0)
    return ResidentEngine(
        ground.base,
        ground.renderer.base,
        adapter_store(settings),
        ground.renderer,
        held=(ground.loaded.quantization, ground.loaded.compute_dtype),
        max_resident=settings.max_resident_adapters if generates else EXAMINED,
        max_batch=settings.max_batch if generates else EXAMINED_AT_ONCE,
        max_queue=settings.max_queue,
        kv_tokens=kv_tokens if generates else EXAMINING_TOKENS,
    )


def batch(ground: Ground, conductor: Conductor) -> Any:
    """Make the BatchLoop, which trains many jobs in one pass."""
    from service.training.batch.loop import BatchLoop
    from service.training.batch.trainer import BatchTrainer

    trainer = BatchTrainer(
        ground.loaded,
        ground.base,
        ground.renderer,
        ground.settings.checkpoint_steps,
        slots=ground.settings.training_slots,
        tokens_at_once=ground.tokens_at_once,
        memory=ground.memory,
        pause=conductor.pause,
    )
    return BatchLoop(trainer, conductor.wake)


def trainers(ground: Ground, batch: Any, conductor: Conductor) -> dict[str, Trainer]:
    """Give the trainer of each method."""
    from service.training.preference import PreferenceTrainer
    from service.training.reinforcement import ReinforcementTrainer

    steps = ground.settings.checkpoint_steps
    if ground.in_turns:
        # What trains alone has no place to stop at where it needs no memory.
        refusing = RefusingTrainer(ONLY_IN_TURNS)
        return {"supervised": batch, "dpo": refusing, "reinforcement": refusing}
    alone = (ground.loaded, ground.renderer, steps, conductor.give_way)
    return {
        "supervised": batch,
        "dpo": PreferenceTrainer(*alone),
        "reinforcement": ReinforcementTrainer(*alone),
    }


def hardware(ground: Ground) -> Hardware:
    """Say what it stands on, for whoever plans a job."""
    from service.base.loading import device_name

    return Hardware(
        name=device_name(),
        device=ground.loaded.device,
        free=ground.free,
        quantization=ground.loaded.quantization,
        compute_dtype=ground.loaded.compute_dtype,
        memory=ground.memory,
    )


def facts(ground: Ground) -> dict[str, Any]:
    """Say for the log how the base is held and run."""
    return {
        "base": ground.loaded.description.name,
        "quantization": ground.loaded.quantization,
        "compute_dtype": ground.loaded.compute_dtype,
        "device": ground.loaded.device,
        **_figures(ground.memory),
    }


def _planned(
    settings: Settings, loaded: Any, free: int, *, trains: bool, generates: bool
) -> MemoryPlan | None:
    """Plan the device's memory; None for a base of a kind whose needs nobody knows beforehand."""
    description = loaded.description
    try:
        model = shape_of(description.config)
    except UnknownShape as fault:
        _log.warning("memory.not_planned", reason=str(fault))
        return None
    wanted = demand(
        settings,
        model,
        description.context_length,
        loaded.device,
        sequences=at_once(settings.max_batch),
        trains=trains,
        generates=generates,
    )
    each = 2 if loaded.compute_dtype == "bfloat16" else 4
    return plan(model, Held(loaded.quantization, each, loaded.device), wanted, free)


def _figures(memory: MemoryPlan | None) -> dict[str, Any]:
    if memory is None:
        return {}
    return {
        "weights_cached": memory.keeps_dequantised,
        "recomputes": memory.recomputes,
        "tokens_at_once": memory.tokens_at_once,
        "longest_tokens": memory.longest_tokens,
        "kv_tokens": memory.kv_tokens,
        "fixed_gib": round(memory.fixed / GIB, 2),
        "available_gib": round(memory.available / GIB, 2),
    }


def threads(settings: Settings) -> int:
    """CPU threads for the base: all cores but one, which is the API's."""
    return settings.torch_threads or max(1, (os.cpu_count() or 1) - 1)
