"""Output tokens a second for 0, 1, 8, 32 and 128 adapters, and what recovers the gap to the base.

vLLM's own `bench serve` keeps as many requests going as the engine takes. 0 is the base alone, for
bare vLLM on an engine without adapters. Ours is as it is shipped; bare vLLM is as it is by default,
and once more for each way that `--ways` asks for:

- specialised: a graph for each number of adapters that are in a batch;
- dual: the adapters' kernels beside the base's (on Hopper by programmatic dependent launch);
- tuned: `VLLM_TUNED_CONFIG_FOLDER` is `--tuned FOLDER`, with kernels' sizes for this GPU;
- fitted: as many slots as adapters are called, for each number of them an engine of its own;
- grouped: requests come adapter by adapter, so that few are in a batch at a time.
"""

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.sides import House, Side, Size, add_arguments, parsed
from bench.table import Line, report
from bench.vllm_load import Work, load

COUNTS = (1, 8, 32, 128)
"""Beside none."""
TARGETS = {8: 0.9, 32: 0.75}
"""Of the base's rate."""
SLOTS = 32


class Way(msgspec.Struct, frozen=True):
    """How bare vLLM is run."""

    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    fitted: bool = False
    grouped: bool = False


WAYS = {
    "default": Way(),
    "specialised": Way(flags=("--specialize-active-lora",)),
    "dual": Way(environment=(("VLLM_LORA_ENABLE_DUAL_STREAM", "1"),)),
    "tuned": Way(environment=(("VLLM_TUNED_CONFIG_FOLDER", "{tuned}"),)),
    "fitted": Way(fitted=True),
    "grouped": Way(grouped=True),
}


def main() -> None:
    """Run a preset."""
    args = _arguments()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        house = House(Path(name), args, max(args.counts))
        if "ours" in args.ways:
            with house.lorehouse(min(SLOTS, max(args.counts))) as side:
                lines += compare("ours", {n: rate(side, n, args) for n in args.counts})
        with house.vllm(0) as side:
            bare = rate(side, 0, args)
        for name in (one for one in args.ways if one != "ours"):
            found = {0: bare, **run(house, WAYS[name], [n for n in args.counts if n], args)}
            lines += compare(f"vLLM {name}", found)
    report("adapter_tax", args.preset, lines)


def run(
    house: House, way: Way, counts: Sequence[int], args: argparse.Namespace
) -> Mapping[int, float]:
    """Measure one way of running bare vLLM."""
    environment = {key: value.format(tuned=args.tuned) for key, value in way.environment}
    whole = [(min(SLOTS, max(counts)), counts)]
    engines = [(min(SLOTS, n), [n]) for n in counts] if way.fitted else whole
    found: dict[int, float] = {}
    for slots, called in engines:
        with house.vllm(slots, max(counts), way.flags, environment) as side:
            found |= {n: rate(side, n, args, grouped=way.grouped) for n in called}
    return found


def rate(side: Side, adapters: int, args: argparse.Namespace, *, grouped: bool = False) -> float:
    """Give output tokens a second, of requests on so many adapters."""
    models = side.models[:adapters]
    sizes = {"given": args.prompt, "made": args.tokens}
    warm = Work(prompts=max(args.sequences // 2, adapters), at_once=args.sequences, **sizes)
    load(args.vllm_python, side.target, models, warm)
    work = Work(prompts=args.requests, at_once=args.sequences, **sizes)
    if grouped:
        each = -(-args.requests // len(models))
        models = list(itertools.chain(*([model] * each for model in models)))
    found = load(args.vllm_python, side.target, models, work, in_order=grouped)
    print(f"{side.target.url}, {adapters} adapters: {found}", flush=True)
    return found.output_throughput


def compare(case: str, found: Mapping[int, float]) -> list[Line]:
    """Set each number of adapters against the base alone."""
    return [
        Line(
            case=f"{case}, {adapters} adapters",
            ours=tokens,
            peer=found[0],
            unit="tok/s",
            least=TARGETS.get(adapters),
        )
        for adapters, tokens in found.items()
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument(
        "--counts",
        type=int,
        nargs="+",
        default=Size((1, 4, 8), COUNTS),
        help="of adapters, beside none",
    )
    parser.add_argument("--ways", nargs="+", choices=["ours", *WAYS], default=["ours", "default"])
    parser.add_argument("--tuned", type=Path, default=Path(), help="folder of kernels' sizes")
    parser.add_argument(
        "--requests", type=int, default=Size(48, 1024), help="for each; %(default)s"
    )
    parser.add_argument("--prompt", type=int, default=Size(32, 128), help="tokens; %(default)s")
    parser.add_argument(
        "--tokens", type=int, default=Size(32, 128), help="of an answer; %(default)s"
    )
    args = parsed(parser)
    args.counts = sorted({0, *args.counts})
    return args


if __name__ == "__main__":
    main()
