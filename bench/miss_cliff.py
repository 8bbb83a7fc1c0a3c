"""The time to the first token when more adapters are called than there are slots for.

Adapters are called by a power law (the n-th as often as 1 / n), at a fixed rate, at random times,
by vLLM's own `bench serve`; 8 slots and working sets of 8 (all resident), 16 and 64 adapters. The
peer is bare vLLM, which loads an adapter when a request for it comes and puts away the one that was
least recently used: once with as many adapters in the host's memory as slots, so that each miss
reads files, and once with all of them there.

Rows are against the same server's case of all resident: at 1 a miss costs nothing.
"""

import argparse
from collections.abc import Sequence

from bench.sides import House, Side, Size, add_arguments, parsed, together
from bench.table import Line, report
from bench.vllm_load import Figures, Work

SLOTS = 8
SETS = (8, 16, 64)
"""Adapters that are called; the first all have a slot."""
COPIES = 1000
"""Places in the list that requests are drawn from."""
P50, P99 = 1.2, 2.0


def main() -> None:
    """Run a preset."""
    args = _arguments()
    with (
        House(args, max(SETS)) as house,
        together(
            house.lorehouse(SLOTS), house.vllm(SLOTS, SLOTS), house.vllm(SLOTS, max(SETS))
        ) as (ours, files, memory),
    ):
        lines = compare("ours", measure(ours, args), aim=True)
        lines += compare("vLLM, files", measure(files, args), aim=False)
        lines += compare("vLLM, in memory", measure(memory, args), aim=False)
    report("miss_cliff", args.preset, lines)


def measure(side: Side, args: argparse.Namespace) -> list[Figures]:
    """Call each working set, which was called once before."""
    found = []
    work = Work(prompts=args.requests, given=args.prompt, made=args.tokens, rate=args.rate)
    warm = Work(prompts=2 * SLOTS, given=args.prompt, made=args.tokens, at_once=SLOTS)
    for size in SETS:
        called = by_power_law(side.models[:size])
        side.load(side.models[:size], warm)
        found.append(side.load(called, work))
        print(f"{side.target.url}, {size} adapters: {found[-1]}", flush=True)
    return found


def by_power_law(models: Sequence[str]) -> list[str]:
    """Repeat each name as often as the law says; the rarest is there once at least."""
    whole = sum(1 / rank for rank in range(1, len(models) + 1))
    return [
        model
        for rank, model in enumerate(models, 1)
        for _ in range(max(1, round(COPIES / rank / whole)))
    ]


def compare(case: str, found: Sequence[Figures], *, aim: bool) -> list[Line]:
    """Set the larger working sets against the one that is all resident."""
    resident, *others = found
    lines = []
    for size, figures in zip(SETS[1:], others, strict=True):
        for field, most in (("p50_ttft_ms", P50), ("p99_ttft_ms", P99)):
            line = Line(
                case=f"{case}, {size} adapters, {field.removesuffix('_ms')}",
                ours=getattr(figures, field),
                peer=getattr(resident, field),
                unit="ms",
                most=most if aim else None,
            )
            lines.append(line)
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument(
        "--rate", type=float, default=Size(4, 40), help="requests a second; %(default)s"
    )
    parser.add_argument(
        "--requests", type=int, default=Size(120, 1200), help="for each set; %(default)s"
    )
    parser.add_argument("--prompt", type=int, default=Size(32, 128), help="tokens; %(default)s")
    parser.add_argument(
        "--tokens", type=int, default=Size(16, 64), help="of an answer; %(default)s"
    )
    return parsed(parser)


if __name__ == "__main__":
    main()
