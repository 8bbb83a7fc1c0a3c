"""What the service costs in front of its engine, against bare vLLM with the same adapters.

Both are up at the same time, and vLLM's own `bench serve` asks one, then the other: `--rounds`
times with as many requests at once as the engine takes, and with one at a time. Requests go to all
adapters alike; a figure is its rounds' median.

- requests a second at saturation;
- added for each request: the first token's p50, one request at a time, against 1 ms;
- added for each token: the p50 between tokens, one request at a time, against 0.05 ms.

With `--engine resident` ours is another engine, and the ratios say nothing of the service.
"""

import argparse
import statistics
from collections.abc import Sequence

import msgspec

from bench.sides import House, Side, Size, add_arguments, parsed, together
from bench.table import Line, report
from bench.vllm_load import Figures, Work

LEAST = 0.99
REQUEST_MS, TOKEN_MS = 1.0, 0.05


def main() -> None:
    """Run a preset."""
    args = _arguments()
    sizes = {"given": args.prompt, "made": args.tokens}
    full = Work(prompts=args.requests, at_once=args.sequences, **sizes)
    single = Work(prompts=args.singles, at_once=1, **sizes)
    warm = Work(prompts=args.sequences, at_once=args.sequences, **sizes)
    with (
        House(args, args.adapters) as house,
        together(house.lorehouse(args.adapters), house.vllm(args.adapters)) as sides,
    ):
        for side in sides:
            side.load(side.models, warm)
        (ours, peer), (ours_single, peer_single) = (
            measure(sides, work, args.rounds) for work in (full, single)
        )
    report("service_tax", args.preset, compare((ours, ours_single), (peer, peer_single)))


def measure(sides: Sequence[Side], work: Work, rounds: int) -> list[Figures]:
    """Load the sides in turns; give each one's medians."""
    found: list[list[Figures]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, its in zip(sides, found, strict=True):
            its.append(side.load(side.models, work))
            print(f"{side.target.url}: {its[-1]}", flush=True)
    return [median(its) for its in found]


def median(found: Sequence[Figures]) -> Figures:
    """Take each figure's median."""
    fields = Figures.__struct_fields__
    taken = {one: statistics.median([getattr(its, one) for its in found]) for one in fields}
    return msgspec.convert(taken, Figures, strict=False)


def compare(ours: tuple[Figures, Figures], peer: tuple[Figures, Figures]) -> list[Line]:
    """Put both sides' figures beside each other."""
    (full, single), (full_peer, single_peer) = ours, peer
    lines = [
        Line(
            case="requests a second",
            ours=full.request_throughput,
            peer=full_peer.request_throughput,
            unit="1/s",
            least=LEAST,
        )
    ]
    for load_name, mine, its in (("full", full, full_peer), ("single", single, single_peer)):
        for field in ("p50_ttft_ms", "p99_ttft_ms", "p50_itl_ms", "p99_itl_ms"):
            case = f"{load_name}, {field.removesuffix('_ms')}"
            lines.append(
                Line(case=case, ours=getattr(mine, field), peer=getattr(its, field), unit="ms")
            )
    request = single.p50_ttft_ms - single_peer.p50_ttft_ms
    token = single.p50_itl_ms - single_peer.p50_itl_ms
    return [
        *lines,
        Line(case="added to a request", ours=request, peer=REQUEST_MS, unit="ms", most=1),
        Line(case="added to a token", ours=token, peer=TOKEN_MS, unit="ms", most=1),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument(
        "--adapters", type=int, default=Size(8, 32), help="each has a slot; %(default)s"
    )
    parser.add_argument(
        "--requests", type=int, default=Size(64, 2048), help="at saturation; %(default)s"
    )
    parser.add_argument(
        "--singles", type=int, default=Size(16, 64), help="one at a time; %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=Size(32, 128), help="tokens; %(default)s")
    parser.add_argument(
        "--tokens", type=int, default=Size(32, 128), help="of an answer; %(default)s"
    )
    return parsed(parser)


if __name__ == "__main__":
    main()
