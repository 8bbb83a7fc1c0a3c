"""What a start would run, by the settings and what there is. Pure."""

import msgspec

from service.base.capabilities import Capabilities, Gpu
from service.base.card_sharing import RESERVED, Card, NoRoom, Shared, share
from service.base.memory import fits
from service.base.memory_plan import Held, MemoryPlan, gib, plan
from service.base.model_shape import ModelShape, UnknownShape, shape_of
from service.base.wanted import demand, sharing
from service.doctor.facts import Base, Facts
from service.doctor.findings import Finding
from service.serving.admission import at_once
from service.settings import Settings

LESS = "lower LOREHOUSE_TRAINING_SLOTS or LOREHOUSE_MAX_RESIDENT_ADAPTERS"
LESS_SHARED = f"{LESS}, or LOREHOUSE_MAX_LORA_RANK"


class Running(msgspec.Struct, frozen=True):
    """By name; and what keeps it from running."""

    lines: dict[str, str]
    findings: list[Finding] = []


def running(settings: Settings, facts: Facts) -> Running:
    """Say what would run; nothing where nobody can know: without a base, or torch."""
    if not isinstance(facts.base, Base) or not isinstance(facts.can, Capabilities):
        return Running({})
    gpu = facts.can.gpus[0] if facts.can.gpus else None
    free = gpu.free if gpu else facts.memory
    held = _held(settings, facts.base, on_gpu=gpu is not None, free=free)
    lines = {
        "engine": _engine(settings, on_gpu=gpu is not None),
        "device": gpu.name if gpu else f"{facts.cores} CPU cores",
        "base": f"{facts.base.name} in {_weights(held)}, computing in {_dtype(held)}",
    }
    try:
        model = shape_of(facts.base.config)
    except UnknownShape as fault:
        warning = Finding(
            "memory plan", "warn", f"none: {fault}", "rows are halved when it runs out"
        )
        return Running(lines, [warning])
    if settings.engine == "vllm" and gpu is not None:
        if settings.vllm_memory_share:
            return _as_told(settings, facts.base, model, held, gpu, lines)
        card = Card(gpu.total, min(gpu.free, gpu.total - RESERVED), facts.memory)
        return _shared(settings, facts.base, model, card, lines)
    return _resident(settings, facts.base, model, held, free, lines)


def _resident(
    settings: Settings,
    base: Base,
    model: ModelShape,
    held: Held,
    free: int,
    lines: dict[str, str],
) -> Running:
    wanted = demand(
        settings,
        model,
        base.context,
        held.device,
        sequences=at_once(settings.max_batch),
        trains=True,
        generates=settings.engine == "resident",
    )
    planned = plan(model, held, wanted, free)
    lines = lines | _parts(planned)
    if settings.engine == "resident":
        most = f"{settings.max_resident_adapters} adapters"
        lines["served at once"] = f"{most}, {planned.kv_tokens:,} tokens in the cache"
    return Running(lines | _rows(settings, planned), _tight(planned, base.context))


def _tight(planned: MemoryPlan, context: int) -> list[Finding]:
    figures = f"{gib(planned.fixed)} are needed, {gib(planned.available)} are available"
    if not planned.tokens_at_once:
        return [Finding("memory plan", "fail", figures, LESS)]
    if planned.demand.serving_slots and planned.kv_tokens < min(context, planned.demand.kv_tokens):
        cached = f"the cache holds {planned.kv_tokens:,} tokens, a context is {context:,}"
        return [Finding("memory plan", "warn", cached, LESS)]
    return [Finding("memory plan", "ok", f"{gib(planned.available)} are planned")]


def _shared(
    settings: Settings, base: Base, model: ModelShape, card: Card, lines: dict[str, str]
) -> Running:
    wanted = sharing(settings, base.context, at_once(settings.max_batch), model)
    found = share(model, card, wanted.served, wanted.held, wanted.demand)
    if isinstance(found, NoRoom):
        return Running(lines, [Finding("memory plan", "fail", found.figures, LESS_SHARED)])
    lines = lines | _split(found) | _parts(found.training) | _rows(settings, found.training)
    planned = Finding("memory plan", "ok", f"{gib(card.free)} are split")
    return Running(lines, [planned])


def _as_told(
    settings: Settings, base: Base, model: ModelShape, held: Held, gpu: Gpu, lines: dict[str, str]
) -> Running:
    """Leave training what the operator leaves it."""
    share = settings.vllm_memory_share
    told = f"gpu_memory_utilization {share:.3f}, as LOREHOUSE_VLLM_MEMORY_SHARE says"
    left = max(0, gpu.free - int(share * gpu.total))
    return _resident(settings, base, model, held, left, lines | {"vLLM": told})


def _split(found: Shared) -> dict[str, str]:
    served = found.served
    how = "vLLM answers while the resident base trains"
    if not found.together:
        how = "in turns: vLLM sleeps while jobs are trained"
    return {
        "shared": how,
        "vLLM": f"gpu_memory_utilization {found.utilization:.3f}, "
        f"weights {gib(served.weights)}, adapters {gib(served.adapters)}, "
        f"working {gib(served.working)}, {found.kv_tokens:,} tokens in the cache",
        "training's share": gib(found.training_bytes),
    }


def _parts(planned: MemoryPlan) -> dict[str, str]:
    parts = {
        "weights": planned.weights,
        "training slots": planned.training_slots,
        "serving slots": planned.serving_slots,
        "loss": planned.loss,
        "keys and values": planned.kv_tokens * planned.kv_per_token,
    }
    parts["left for rows"] = max(0, planned.available - planned.fixed)
    return {name: gib(amount) for name, amount in parts.items()}


def _rows(settings: Settings, planned: MemoryPlan) -> dict[str, str]:
    again = ", every layer computed again" if planned.recomputes else ""
    return {
        "trained at once": f"{settings.training_slots} jobs, "
        f"{planned.tokens_at_once:,} tokens a row{again}",
        "longest example": f"{planned.longest_tokens:,} tokens",
    }


def _engine(settings: Settings, *, on_gpu: bool) -> str:
    if settings.engine == "resident":
        return "resident: one base trains and answers"
    return "vLLM answers, the resident base trains" + (
        "" if on_gpu else "; without a GPU, for tests"
    )


def _held(settings: Settings, base: Base, *, on_gpu: bool, free: int) -> Held:
    dtype = settings.compute_dtype
    wide = dtype == "float32" or (dtype == "auto" and not on_gpu)
    each = 4 if wide else 2
    quantization = settings.quantization
    if quantization == "auto":
        quantization = "none" if fits(base.parameters, each, free) else "nf4"
    return Held(quantization, each, "cuda" if on_gpu else "cpu")


def _weights(held: Held) -> str:
    return "NF4" if held.quantization == "nf4" else _dtype(held)


def _dtype(held: Held) -> str:
    return "bfloat16" if held.each == 2 else "float32"
