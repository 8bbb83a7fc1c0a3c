"""What stands on the one base of a runtime process: the composition root of its side."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from service.adapters.storing import adapter_store
from service.base.description import BaseDescription
from service.base.hardware import Hardware
from service.database import Database
from service.datasets.service import FileService
from service.rendering.renderer import Renderer
from service.runtime import building
from service.runtime.client import RemoteEngine
from service.runtime.conductor import Conductor, Generation, Training, Turned, untold
from service.runtime.gatekeeping import Gatekeeper
from service.runtime.metrics import RuntimeMetrics
from service.runtime.training_parts import Parts
from service.runtime.training_turns import InTurn
from service.serving.engine import Engine
from service.serving.gate import Rules, rules_for
from service.settings import Settings
from service.tenants.limits import from_setting
from service.tenants.quotas import Quotas
from service.training.trainer import Trainer

SWITCH_SECONDS = 0.0005
"""How long another thread may compute in Python before the base's goes on; Python's own is ten
times that, and the base's thread lets others in at every operation of torch's."""


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
    in_turn: InTurn | None
    """The same, on a card that vLLM has in turns with it."""
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
        return self.in_turn or self.batch

    def make_room(self) -> None:
        """Free what the device keeps for the next row."""
        from service.base.loading import let_go

        let_go()

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
    """Load the base and put together what is to use it. Raises BaseModelError and CardTooSmall."""
    sys.setswitchinterval(SWITCH_SECONDS)
    ground = building.load(settings, renderer, trains=trains, generates=generates)
    conductor = building.conductor(ground, turned)
    engine = building.engine(ground, generates=generates)
    engine.loop.door.wake = conductor.wake
    batch = building.batch(ground, conductor) if trains else None
    return Residence(
        description=renderer.base,
        conductor=conductor,
        engine=engine,
        answers=generates,
        batch=batch,
        in_turn=InTurn(batch, conductor.wake) if batch is not None and ground.in_turns else None,
        trainers={} if batch is None else building.trainers(ground, batch, conductor),
        healthy=ground.base.computes,
        hardware=building.hardware(ground),
        facts=building.facts(ground),
    )


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
