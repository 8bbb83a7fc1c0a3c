"""What stands on the one base of a runtime process: the composition root of its side."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from service.adapters.storing import adapter_store
from service.base.description import BaseDescription
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
from service.database import Database
from service.datasets.service import FileService
from service.rendering.renderer import Renderer
from service.runtime.client import RemoteEngine
from service.runtime.conductor import Conductor, Generation, Training, Turned, untold
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.metrics import RuntimeMetrics
from service.runtime.shares import Shares
from service.runtime.stalls import Stalls
from service.runtime.training_parts import Parts
from service.serving.admission import at_once
from service.serving.engine import Engine
from service.serving.gate import Rules, rules_for
from service.settings import Settings
from service.telemetry import logger
from service.tenants.limits import from_setting
from service.tenants.quotas import Quotas
from service.training.trainer import Trainer

SWITCH_SECONDS = 0.0005
"""How long another thread may compute in Python before the base's goes on; Python's own is ten
times that, and the base's thread lets others in at every operation of torch's."""

CALM_TOKENS = {"cpu": 512, "cuda": None}
"""Of a training row while nobody asks, but lately did: the next to ask meets such a row. Longer
ones make the longest gaps longer; on a GPU a pause waits for two layers at most all the same."""
_log = logger(__name__)


class Residence(msgspec.Struct, frozen=True, kw_only=True):
    """One loaded base and who uses it. What is not done here is None, or empty."""

    description: BaseDescription
    conductor: Conductor
    engine: Any
    """A ResidentEngine: it answers requests, or only examines what is trained here."""
    answers: bool
    """Whether it answers requests."""
    batch: Any | None
    """A BatchLoop."""
    trainers: Mapping[str, Trainer]
    healthy: Callable[[], bool]
    hardware: Hardware
    facts: dict[str, Any]
    """For the log: how the base is held and run."""

    @property
    def generation(self) -> Generation:
        """What the conductor gives turns to first."""
        loop: Generation = self.engine.loop
        return loop

    @property
    def training(self) -> Training | None:
        """What has its turns in between."""
        return self.batch

    def give_up(self) -> None:
        """Tell everybody who waits for a turn that none will come."""
        self.engine.loop.end()
        if self.batch is not None:
            self.batch.close()

    def move_out(self) -> None:
        """End the base's thread, and then whatever still waits for it."""
        self.conductor.stop()
        self.give_up()
        self.engine.loop.close()


def move_in(
    settings: Settings,
    renderer: Renderer,
    *,
    trains: bool,
    generates: bool,
    turned: Turned = untold,
) -> Residence:
    """Load the base and put together what is to use it. Raises BaseModelError."""
    # Only this process pays for torch.
    from service.base.loading import device_name, free_memory, load_base
    from service.base.segmented.base import SegmentedBase
    from service.base.segmented.pace import Pace
    from service.serving.resident_engine import ResidentEngine
    from service.training.batch.loop import BatchLoop
    from service.training.batch.trainer import BatchTrainer
    from service.training.preference import PreferenceTrainer
    from service.training.reinforcement import ReinforcementTrainer

    sys.setswitchinterval(SWITCH_SECONDS)
    description = renderer.base
    free = free_memory()
    loaded = load_base(
        description, settings.quantization, threads(settings), settings.compute_dtype
    )
    memory = _planned(settings, loaded, free, trains=trains, generates=generates)
    cached = memory is not None and memory.keeps_dequantised
    base = SegmentedBase(loaded.model, cache_weights=cached)
    most_tokens = MOST_TOKENS[loaded.device]
    if memory is not None:
        most_tokens = max(1, memory.tokens_at_once)
    shares, stalls = Shares(settings.training_share), Stalls(settings.max_stall_ms / 1000)
    calm_tokens = CALM_TOKENS[loaded.device]
    conductor = Conductor(
        shares,
        stalls,
        most_tokens,
        calm_tokens=calm_tokens,
        pace=Pace(base.device),
        turned=turned,
    )
    batch = None
    trainers: dict[str, Trainer] = {}
    kv_tokens = settings.kv_tokens or (memory.kv_tokens if memory is not None else 0)
    engine = ResidentEngine(
        base,
        description,
        adapter_store(settings),
        renderer,
        held=(loaded.quantization, loaded.compute_dtype),
        max_resident=settings.max_resident_adapters if generates else EXAMINED,
        max_batch=settings.max_batch if generates else EXAMINED_AT_ONCE,
        max_queue=settings.max_queue,
        kv_tokens=kv_tokens if generates else EXAMINING_TOKENS,
    )
    engine.loop.door.wake = conductor.wake
    if trains:
        trainer = BatchTrainer(
            loaded,
            base,
            renderer,
            settings.checkpoint_steps,
            slots=settings.training_slots,
            tokens_at_once=most_tokens,
            memory=memory,
            pause=conductor.pause,
        )
        batch = BatchLoop(trainer, conductor.wake)
        alone = (loaded, renderer, settings.checkpoint_steps, conductor.give_way)
        trainers = {
            "supervised": batch,
            "dpo": PreferenceTrainer(*alone),
            "reinforcement": ReinforcementTrainer(*alone),
        }
    return Residence(
        description=description,
        conductor=conductor,
        engine=engine,
        answers=generates,
        batch=batch,
        trainers=trainers,
        healthy=base.computes,
        hardware=Hardware(
            name=device_name(),
            device=loaded.device,
            free=free,
            quantization=loaded.quantization,
            compute_dtype=loaded.compute_dtype,
            memory=memory,
        ),
        facts={
            "base": description.name,
            "quantization": loaded.quantization,
            "compute_dtype": loaded.compute_dtype,
            "device": loaded.device,
            **_figures(memory),
        },
    )


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


def parts(
    settings: Settings,
    owner: str,
    residence: Residence,
    database: Database,
    renderer: Renderer,
    metrics: RuntimeMetrics,
) -> Parts:
    """Put together what working on jobs needs."""
    root = settings.data_dir.resolve()
    quotas = Quotas(from_setting(settings.tenant_limits))
    files = FileService(database, root, renderer, settings.max_file_bytes, quotas)
    held = residence.hardware
    rules = rules_for(held.compute_dtype, settings.gate_margin)
    serving = residence.engine if residence.answers else RemoteEngine(settings.generation_socket)
    return Parts(
        owner=owner,
        lease_seconds=settings.lease_seconds,
        database=database,
        store=adapter_store(settings),
        base=residence.description,
        quantization=held.quantization,
        compute_dtype=held.compute_dtype,
        trainers=residence.trainers,
        gate=_gate(settings, residence.engine, serving, rules),
        at_once=settings.training_slots,
        quotas=quotas,
        healthy=residence.healthy,
        workdirs=root / "jobs",
        examples=files.examples,
        engine=serving,
        metrics=metrics,
    )


def _gate(settings: Settings, own: Engine, serving: Engine, rules: Rules) -> Gatekeeper:
    """Examine where it will be served: in vLLM, or in the engine that is on this base."""
    apart = settings.engine == "vllm"
    return Gatekeeper(serving if apart else own, rules, apart=apart)
