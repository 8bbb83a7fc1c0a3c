"""Find block sizes of vLLM's LoRA kernels for the GPU at hand, written where vLLM looks for them.

    python -m tools.tune_lora --base /tmp/llama-8b --out /tmp/tuned
    VLLM_TUNED_CONFIG_FOLDER=/tmp/tuned ...             # whatever starts vLLM

For bases with LLaMA's layers. Keeps to --seconds, what comes first in --sizes first; what there is
no time for stays as vLLM has it. The last line is JSON: microseconds in a layer of the base, before
and after, by the tokens in a step.
"""

import argparse
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from service.serving.vllm.options import spelled
from tools.lora_blocks import TARGETS, Case, Config, cases, descend, filed, share, summed

DEVICE = "cuda"
SIZES = (256, 128, 64, 32, 8, 2048, 8192)
"""Decoding's graphs, then prompts; vLLM takes the nearest for those in between."""
COPIES = 16
"""As many layers' weights by turns: together they outgrow a GPU's cache, as a base's layers do."""
REPEATS = 8
TOLERANCE = 0.01
"""Of the largest value: sums are rounded in another order, a block left out is far more."""
SPARE_SECONDS = 4.0
"""For what is under way when time is up: a compilation is not broken off."""


class Kernels:
    """vLLM's two operations, on inputs like its layers', with a configuration of one's choice."""

    def __init__(self, slots: int, adapters: int, threads: int) -> None:
        import torch

        # Found now, they would be taken for vLLM's own.
        os.environ.pop("VLLM_TUNED_CONFIG_FOLDER", None)
        package = "vllm.lora.ops.triton_ops"
        self.operations = {
            op: import_module(f"{package}.lora_{op}_op") for op in ("shrink", "expand")
        }
        self.own = import_module(f"{package}.utils").get_lora_op_configs
        self.meta = import_module(f"{package}.lora_kernel_metadata").LoRAKernelMeta
        self.adds = not import_module("vllm.envs").VLLM_LORA_ENABLE_DUAL_STREAM
        self.slots, self.adapters = slots, adapters
        # A thread of Triton's own calls has no CUDA context before torch's first.
        context = partial(torch.zeros, 1, device=DEVICE)
        self.threads = ThreadPoolExecutor(threads, initializer=context)
        self.weights: dict[tuple[object, ...], list[Any]] = {}
        self.chosen = threading.local()
        for operation in self.operations.values():
            operation.get_lora_op_configs = lambda *_, **__: self.chosen.config

    def default(self, case: Case) -> Config:
        """Give vLLM's own choice."""
        asked = {"op_type": case.op, "max_loras": self.slots + 1, "batch": case.tokens}
        asked |= {"hidden_size": case.wide, "rank": case.rank, "num_slices": len(case.outputs)}
        return dict(self.own(**asked, add_inputs=self.adds if case.op == "expand" else None))

    def tune(
        self, case: Case, starts: Sequence[Config], until: float
    ) -> tuple[Config, list[float]]:
        """Give the best found by then, and the seconds that the first start and it took."""
        run, results = self._prepared(case)

        def measure(configs: Sequence[Config]) -> list[float]:
            if time.monotonic() > until:
                return [math.inf] * len(configs)
            # Compiled side by side, timed one after another.
            runs = list(self.threads.map(lambda config: self._runs(config, run), configs))
            return [
                self._with(config, lambda: timed(run))
                if fine and time.monotonic() < until
                else math.inf
                for config, fine in zip(configs, runs, strict=True)
            ]

        best, default = descend(case, starts, measure), starts[0]
        took = [self._with(config, lambda: timed(run)) / COPIES for config in (default, best)]
        if (
            best != default
            and took[1] < took[0]
            and alike(self._with(default, results), self._with(best, results))
        ):
            return best, took
        return default, [took[0]] * 2

    def _with(self, config: Config, call: Callable[[], Any]) -> Any:
        self.chosen.config = config
        return call()

    def _runs(self, config: Config, run: Callable[[], None]) -> bool:
        try:
            self._with(config, run)
        except Exception:  # noqa: BLE001 - whatever stops it here would stop it in vLLM
            return False
        return True

    def _prepared(self, case: Case) -> tuple[Callable[[], None], Callable[[], list[Any]]]:
        """Build the inputs as vLLM's wrapper does; give what is timed, and what is compared."""
        import torch

        meta = self.meta.make(self.slots, case.tokens, DEVICE)
        meta.prepare_tensors(torch.arange(case.tokens, device=DEVICE) % self.adapters)
        told = meta.meta_args(case.tokens, False)
        weights = self._weights(case)
        low = torch.randn(len(case.outputs), case.tokens, case.rank, device=DEVICE)
        half: dict[str, Any] = {"dtype": torch.bfloat16, "device": DEVICE}
        operation = getattr(self.operations[case.op], f"_lora_{case.op}")
        if case.op == "shrink":
            high = torch.randn(case.tokens, case.inputs, **half)
            calls = [partial(operation, high, layer, low, *told, 1.0) for layer in weights]
            return partial(_each, calls), lambda: _result(calls[:1], low)
        high = torch.zeros(case.tokens, sum(case.outputs), **half)
        calls = [partial(operation, low, layer, high, *told) for layer in weights]
        both = [partial(calls[0], add_inputs=adds) for adds in (True, False)]
        added = [partial(call, add_inputs=self.adds) for call in calls]
        return partial(_each, added), lambda: _result(both, high.fill_(1.0))

    def _weights(self, case: Case) -> list[Any]:
        """Keep each layer's: vLLM knows weights by their address, so none may take another's."""
        import torch

        shapes = [(case.rank, case.inputs)] * len(case.outputs)
        if case.op == "expand":
            shapes = [(wide, case.rank) for wide in case.outputs]
        key = (case.op, *shapes)
        if key not in self.weights:
            self.weights[key] = [
                tuple(
                    torch.randn(self.slots, 1, *shape, dtype=torch.bfloat16, device=DEVICE)
                    for shape in shapes
                )
                for _ in range(COPIES)
            ]
        return self.weights[key]


def _each(calls: Iterable[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _result(calls: Iterable[Callable[[], None]], out: Any) -> list[Any]:
    results = []
    for call in calls:
        call()
        results.append(out.clone())
    return results


def alike(right: Sequence[Any], other: Sequence[Any]) -> bool:
    """Tell if results are the same but for rounding; what is no number is like nothing."""
    return all(
        bool((one - two).abs().max() <= TOLERANCE * one.abs().max())
        for one, two in zip(right, other, strict=True)
    )


def timed(run: Callable[[], None]) -> float:
    """Give the median seconds of a replay, as a CUDA graph like those of vLLM's steps."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
        # All streams: what compiled was launched on the default one.
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph: it collects garbage first, which takes longer than all the rest.
        graph.capture_begin()
        try:
            run()
        finally:
            graph.capture_end()
        graph.replay()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
        marks[0].record()
        for mark in marks[1:]:
            graph.replay()
            mark.record()
        stream.synchronize()
    return float(statistics.median(map(torch.cuda.Event.elapsed_time, marks, marks[1:]))) / 1000


def gpu_name() -> str:
    """Spell the GPU's name as vLLM does in its files' names."""
    import torch

    return spelled(torch.cuda.get_device_name())


def write(chosen: dict[Case, Config], slots: int, out: Path) -> None:
    """Write them; with VLLM_LORA_ENABLE_DUAL_STREAM vLLM asks for EXPAND_FALSE, else for _TRUE."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("SHRINK", "EXPAND_TRUE", "EXPAND_FALSE"):
        table = filed(chosen, name.split("_")[0].lower(), slots)
        (out / f"{gpu_name()}_{name}.json").write_text(json.dumps(table, indent=1))


def main() -> int:
    """Run it; 1 when not one case could be measured."""
    began = time.monotonic()
    given = _arguments()
    base = json.loads((given.base / "config.json").read_text())
    waiting = cases(base, given.sizes, given.rank, TARGETS[given.targets])
    kernels = Kernels(given.slots, given.adapters, given.threads)
    # All layers' are written, for vLLM fails on a number of slices that it does not find; those
    # that are tuned come last, and so in the place of the same ones.
    written = [*cases(base, given.sizes, given.rank), *waiting]
    chosen = {case: kernels.default(case) for case in written}
    took: dict[Case, list[float]] = {}
    for number, case in enumerate(waiting):
        left = began + given.seconds - SPARE_SECONDS - time.monotonic()
        if left <= 0:
            break
        until = time.monotonic() + share(left, len(waiting) - number)
        # What is best for as many rows is often best for half as many.
        near = [
            chosen[other] for other in took if (other.op, other.layers) == (case.op, case.layers)
        ]
        starts = [chosen[case], *near[-2:]]
        try:
            chosen[case], took[case] = kernels.tune(case, starts, until)
        except Exception as fault:  # noqa: BLE001 - the others' configurations are worth having
            print(f"{_titled(case)}: left at the default: {fault!r}", flush=True)
            continue
        before, after = (1e6 * seconds for seconds in took[case])
        print(
            f"{_titled(case)}: {before:.1f} -> {after:.1f} us {json.dumps(chosen[case])}",
            flush=True,
        )
    write(chosen, given.slots, given.out)
    told = {"gpu": gpu_name(), "seconds": round(time.monotonic() - began, 1), "cases": len(waiting)}
    print(json.dumps(told | {"measured": len(took)} | summed(took)), flush=True)
    return 0 if took else 1


def _titled(case: Case) -> str:
    return f"m={case.tokens} {case.op} {'+'.join(case.layers)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="a folder with its config.json")
    parser.add_argument("--out", type=Path, required=True, help="VLLM_TUNED_CONFIG_FOLDER")
    parser.add_argument("--targets", choices=list(TARGETS), default="all")
    parser.add_argument("--rank", type=int, default=16, help="the engine's max_lora_rank")
    parser.add_argument("--slots", type=int, default=32, help="the engine's max_loras")
    parser.add_argument("--adapters", type=int, default=32, help="in each step, by turns")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="steps' tokens")
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--threads", type=int, default=min(16, os.cpu_count() or 1))
    given = parser.parse_args()
    if given.adapters > given.slots:
        parser.error("--adapters: more than --slots, which hold them")
    return given


if __name__ == "__main__":
    sys.exit(main())
