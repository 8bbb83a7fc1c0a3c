"""Output tokens a second for 0, 1, 8, 32 and 128 adapters, and what recovers the gap to the base.

vLLM's own `bench serve` keeps as many requests going as the engine takes. 0 is the base alone, for
bare vLLM on an engine without adapters. Ours is as it is shipped; bare vLLM is as it is by default,
and once more for each way that `--ways` asks for:

- specialised: a graph for each number of adapters that are in a batch;
- dual: the adapters' kernels beside the base's (on Hopper by programmatic dependent launch);
- attention: adapters on the attention's layers only, which are those that are targeted here;
- tuned: `VLLM_TUNED_CONFIG_FOLDER` is `--tuned FOLDER`, with kernels' sizes for this GPU;
- fitted: as many slots as adapters are called, for each number of them an engine of its own;
- grouped: requests come adapter by adapter, so that few are in a batch at a time.

`--at-once` servers are up at the same time, and asked one after the other.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from bench.sides import House, Side, Size, add_arguments, parsed, together
from bench.table import Line, report
from bench.vllm_load import Work
from bench.workload import ATTENTION
from service.serving.vllm.options import TUNED

COUNTS = (1, 8, 32, 128)
"""Beside none."""
TARGETS = {8: 0.9, 32: 0.75}
"""Of the base's rate."""
SLOTS = 32
OURS, BARE = "ours", "vLLM without LoRA"


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
    "attention": Way(flags=("--lora-target-modules", *ATTENTION)),
    "tuned": Way(environment=(("VLLM_TUNED_CONFIG_FOLDER", "{tuned}"),)),
    "fitted": Way(fitted=True),
    "grouped": Way(grouped=True),
}


class Server(msgspec.Struct, frozen=True):
    """One to start, and what it is asked."""

    case: str
    side: AbstractContextManager[Side]
    counts: Sequence[int]
    grouped: bool = False


def main() -> None:
    """Run a preset."""
    args = _arguments()
    found: dict[str, dict[int, float]] = {}
    with House(args, max(args.counts)) as house:
        listed = servers(house, args)
        for at in range(0, len(listed), args.at_once):
            group = listed[at : at + args.at_once]
            with together(*(server.side for server in group)) as sides:
                for server, side in zip(group, sides, strict=True):
                    its = found.setdefault(server.case, {})
                    its |= {n: rate(side, n, args, server.grouped) for n in server.counts}
    bare = found.pop(BARE)[0]
    lines = [line for case, its in found.items() for line in compare(case, its, bare)]
    report("adapter_tax", args.preset, lines)


def servers(house: House, args: argparse.Namespace) -> list[Server]:
    """List what is to be run, the base alone first."""
    listed = [Server(BARE, house.vllm(0), [0])]
    for name in args.ways:
        if name == OURS:
            side = house.lorehouse(min(SLOTS, max(args.counts)))
            listed.append(Server(OURS, side, [0, *args.counts]))
        else:
            listed += ran(house, name, args)
    return listed


def ran(house: House, name: str, args: argparse.Namespace) -> list[Server]:
    """List the servers of one way of running bare vLLM."""
    way, most = WAYS[name], max(args.counts)
    environment = {key: value.format(tuned=args.tuned) for key, value in way.environment}
    engines = [[n] for n in args.counts] if way.fitted else [args.counts]
    return [
        Server(
            f"vLLM {name}",
            house.vllm(min(SLOTS, max(counts)), most, way.flags, environment),
            counts,
            way.grouped,
        )
        for counts in engines
    ]


def rate(side: Side, adapters: int, args: argparse.Namespace, grouped: bool) -> float:
    """Give output tokens a second, of requests on so many adapters."""
    models = side.models[:adapters]
    sizes = {"given": args.prompt, "made": args.tokens}
    warm = Work(prompts=max(args.sequences // 2, adapters), at_once=args.sequences, **sizes)
    side.load(models, warm)
    work = Work(prompts=args.requests, at_once=args.sequences, **sizes)
    if grouped:
        each = -(-args.requests // len(models))
        models = list(itertools.chain(*([model] * each for model in models)))
    found = side.load(models, work, in_order=grouped)
    print(f"{side.target.url}, {adapters} adapters: {found}", flush=True)
    return found.output_throughput


def compare(case: str, found: Mapping[int, float], bare: float) -> list[Line]:
    """Set adapters against the same server's base, or one without LoRA; that against the latter."""
    return [
        Line(
            case=f"{case}, {adapters} adapters",
            ours=tokens,
            peer=found.get(0, bare) if adapters else bare,
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
    parser.add_argument("--ways", nargs="+", choices=[OURS, *WAYS], default=[OURS, "default"])
    parser.add_argument("--tuned", type=Path, default=TUNED, help="folder of kernels' sizes")
    parser.add_argument(
        "--requests", type=int, default=Size(48, 1024), help="for each; %(default)s"
    )
    parser.add_argument("--prompt", type=int, default=Size(32, 128), help="tokens; %(default)s")
    parser.add_argument(
        "--tokens", type=int, default=Size(32, 128), help="of an answer; %(default)s"
    )
    parser.add_argument("--at-once", type=int, default=Size(1, 3), help="servers; %(default)s")
    return parsed(parser)


if __name__ == "__main__":
    main()
