"""What `service.base.memory_plan` says that training takes, against what it takes.

The rows go through the service's own training batch: slots on the resident base, one packed row
there and back, one optimizer step for each job. Measured is the most that tensors had in use; on a
CPU, which counts nothing, what was held before, and what torch's profiler saw come and go on top.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import torch

from bench import bases
from bench.measure import forget, peak_gib, synchronise
from bench.workload import ALL, ATTENTION, CLIP, LEARNING_RATE, RANK, examples
from service.base.memory_plan import GIB, Demand, Held, MemoryPlan, Parts, by_part, ways
from service.base.model_shape import ModelShape, shape_of
from service.base.segmented.base import SegmentedBase
from service.base.segmented.optimizer import AdamW
from service.training.batch import row
from service.training.batch.examples import Encoded, Piece
from service.training.batch.resident import Resident
from service.training.spec import LoraSpec

STEP = AdamW(lr=LEARNING_RATE, clip=CLIP)
ENDLESS = 2**50
"""Free memory, so that a plan has tokens for any row."""
PARTS = Parts.__struct_fields__


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Each of `jobs` has `rows` examples of `tokens` tokens in the one row."""

    jobs: int
    rows: int
    tokens: int
    cached: bool = False
    recomputed: bool = False
    targets: tuple[str, ...] = ALL

    def name(self, held: Held) -> str:
        """What the table calls it."""
        parts = [
            f"{self.jobs}x{self.rows}x{self.tokens}",
            "nf4" if held.quantization == "nf4" else {2: "bf16", 4: "fp32"}[held.each],
            "all linears" if self.targets == ALL else "attention",
            *(["cached"] if self.cached else []),
            *(["recomputed"] if self.recomputed else []),
        ]
        return " ".join(parts)

    @property
    def lora(self) -> LoraSpec:
        """The jobs' adapters, with the service's dropout."""
        return LoraSpec(rank=RANK, target_modules=self.targets)


class Row(msgspec.Struct, frozen=True):
    """A case's figures, in bytes."""

    case: str
    predicted: Parts
    measured: int | None

    @property
    def error(self) -> float | None:
        """Of the prediction, relative to what was measured."""
        return None if self.measured is None else self.predicted.total / self.measured - 1


def predict(model: ModelShape, held: Held, case: Case) -> Parts:
    """Ask the plan, for the way that the case runs in."""
    demand = Demand(targets=frozenset(ALL), training_slots=case.jobs, training_rank=RANK)

    def wanted(way: MemoryPlan) -> bool:
        return (way.keeps_dequantised, way.recomputes) == (case.cached, case.recomputed)

    planned = next(filter(wanted, ways(model, held, demand, ENDLESS)))
    return by_part(planned, case.lora, case.jobs * case.rows * case.tokens)


def measure(model: Any, case: Case) -> int:
    """Train two steps; tell the bytes in use at the most."""
    forget()
    base = SegmentedBase(model, cache_weights=case.cached, recompute=case.recomputed)
    resident = Resident(base, case.jobs, RANK, torch.float32)
    slots = [resident.allocate(case.lora, seed) for seed in range(case.jobs)]
    pieces = {slot: _piece(model, case, slot) for slot in slots}

    def step() -> None:
        row.learn(resident, pieces)
        resident.optimizer.step(dict.fromkeys(slots, STEP))
        synchronise()

    if torch.cuda.is_available():
        step()
        step()
        peak = torch.cuda.max_memory_allocated()
        print(f"  in use {peak_gib():.2f}, reserved {_reserved():.2f} GiB", flush=True)
    else:
        step()
        peak = _held(model, resident) + _on_top(step)
    base.remove()
    return peak


def _piece(model: Any, case: Case, seed: int) -> Piece:
    drawn = [ids.cpu() for ids in examples(model, [case.tokens] * case.rows, seed)]
    encoded = [Encoded(ids, torch.arange(len(ids) - 1), ids[1:]) for ids in drawn]
    seeds = tuple(range(seed * case.rows, (seed + 1) * case.rows))
    return Piece(encoded, seeds, 1 / sum(len(one.targets) for one in encoded))


def _reserved() -> float:
    return torch.cuda.max_memory_reserved() / GIB


def _held(model: Any, resident: Resident) -> int:
    """Add up what is there between two rows: weights, their scales, caches and slots."""
    tensors = {id(tensor): tensor for tensor in model.parameters()}
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            tensors |= {id(one): one for one in (state.absmax, state.state2.absmax)}
        if isinstance(cached := getattr(module, "_cached", None), torch.Tensor):
            tensors[id(cached)] = cached
    pool = resident.slots.pool
    slots = sum(pool.buffer(name).nbytes for name in pool.buffers)
    return slots + sum(tensor.nbytes for tensor in tensors.values())


def _on_top(step: Callable[[], None]) -> int:
    """Tell the most that a step has in use besides."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


Bases = Iterator[tuple[Callable[[], Any], ModelShape, Held, Sequence[Case]]]


def cpu_cases() -> Bases:
    """The bundled base."""
    for name in ("fp32", "nf4"):
        quantization, _ = bases.HELD[name]
        model = bases.bundled(name, torch.get_num_threads())
        yield (
            lambda model=model: model,
            shape_of(model.config.to_dict()),
            Held(quantization, 4, "cpu"),
            [
                Case(jobs=8, rows=1, tokens=128, cached=quantization == "nf4"),
                Case(jobs=1, rows=2, tokens=1024, recomputed=True, targets=ATTENTION),
            ],
        )


def h200_cases(*, small: bool, predict_only: bool) -> Bases:
    """Llama-3-8B's architecture from random weights; `small` tries the code on a CPU."""
    shape = shape_of(bases.LLAMA_3_8B | (bases.TINY if small else {}))
    model = None if predict_only else bases.random_llama(small=small)
    many, long, whole = (
        ((3, 1, 16), (1, 2, 64), (1, 1, 128))
        if small
        else ((24, 1, 256), (1, 4, 4096), (1, 2, 8192))
    )
    device: Literal["cpu", "cuda"] = "cpu" if small else "cuda"
    yield (
        lambda: model,
        shape,
        Held("none", 2, device),
        [_case(many), _case(long, recomputed=True, targets=ATTENTION)],
    )
    yield (
        lambda: bases.quantise(model),
        shape,
        Held("nf4", 2, device),
        [
            _case(many, cached=True),
            _case(long, targets=ATTENTION),
            _case(whole, recomputed=True),
        ],
    )


def _case(size: tuple[int, int, int], **others: Any) -> Case:
    jobs, rows, tokens = size
    return Case(jobs=jobs, rows=rows, tokens=tokens, **others)


def report(preset: str, rows: Sequence[Row]) -> None:
    """Print a table in GiB, and as the last line one JSON object, in bytes."""
    width = max(len(one.case) for one in rows)
    heads = " ".join(f"{name:>11}" for name in (*PARTS, "predicted", "measured"))
    print(f"{'GiB':<{width}} {heads}  error")
    for one in rows:
        figures = [*(getattr(one.predicted, name) for name in PARTS), one.predicted.total]
        told = [f"{figure / GIB:>11.3f}" for figure in figures]
        told.append(f"{'' if one.measured is None else f'{one.measured / GIB:.3f}':>11}")
        error = "" if one.error is None else f"{one.error:+.1%}"
        print(f"{one.case:<{width}} {' '.join(told)}  {error}")
    given = [
        {
            "case": one.case,
            **msgspec.structs.asdict(one.predicted),
            "predicted": one.predicted.total,
            "measured": one.measured,
            "error": None if one.error is None else round(one.error, 4),
        }
        for one in rows
    ]
    print(json.dumps({"bench": "memory", "preset": preset, "rows": given}))


def main() -> None:
    """Run a preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    parser.add_argument("--predict-only", action="store_true", help="train nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = (
        cpu_cases()
        if args.preset == "cpu"
        else h200_cases(small=args.small, predict_only=args.predict_only)
    )
    rows = []
    for load, shape, held, cases in made:
        model = None if args.predict_only else load()
        for case in cases:
            name = case.name(held)
            print(name, flush=True)
            measured = None if args.predict_only else measure(model, case)
            rows.append(Row(name, predict(shape, held, case), measured))
    report(args.preset, rows)


if __name__ == "__main__":
    main()
