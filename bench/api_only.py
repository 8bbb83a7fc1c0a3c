"""What the API costs by itself, with an engine that gives 512 streams 10,000 tokens a second.

The engine makes tokens without a model (`steady`), behind the runtime's socket in a process of its
own, and again inside the API's process. The peer is vLLM's own front end (`vllm_front`, on the
Python of `--vllm-python`, where vLLM is installed), fed alike inside its process. One after the
other, under the same load, on the same cores as its generator; `--rounds` times in turn.

- CPU: microseconds of the processes for each token, and for the engine's process beside the API;
- added: from a token's making until the client has read it, in milliseconds. A step's tokens are
  made at once, so half of them wait for as many others.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvloop

from bench.running import BASE, Service, answering, cpu_seconds, free_port, key_of
from bench.steady import STEP
from bench.table import Line, report
from bench.token_load import Streams
from service.settings import BUNDLED_BASE

SIDES = ("socket", "inside", "vllm")
MESSAGES = [{"role": "user", "content": "Where is my parcel now?"}]


class Front(msgspec.Struct, frozen=True):
    """A server that is up: where, for whom, and its processes."""

    port: int
    key: str
    pids: list[int]


class Figures(msgspec.Struct, frozen=True):
    """What one round of one side gave."""

    rate: float
    """Tokens a second."""
    cpu: list[float]
    """Microseconds a token, of each process."""
    p50: float
    p99: float
    """Milliseconds from a token's making to its reading."""
    requests: float
    """Answers ended a second."""


def main() -> None:
    """Run a preset."""
    args = _arguments()
    sides = [side for side in SIDES if side != "vllm" or args.vllm_python]
    sides = [side for side in sides if args.only in (None, side)]
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    for number in range(args.rounds):
        for side in sides:
            with front(side, args) as up:
                found[side].append(uvloop.run(measure(up, args)))
            print(f"round {number + 1}, {side}: {found[side][-1]}", flush=True)
    lines = compare({side: middle(rounds) for side, rounds in found.items()})
    if lines:
        report("api_only", "cpu", lines)


@contextmanager
def front(side: str, args: argparse.Namespace) -> Iterator[Front]:
    """Run one side's server."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if side == "vllm":
            with _vllm(folder, args) as up:
                yield up
            return
        module = "bench.steady" if side == "inside" else "service"
        with Service(folder, "api", module=module) as service:
            key = key_of(service.tenant("acme"))
            pids = [service.pid]
            if side == "inside":
                yield Front(service.port, key, pids)
                return
            with service.beside("bench.steady", "runtime") as pid:
                service.wait("/health/ready")
                yield Front(service.port, key, [*pids, pid])


@contextmanager
def _vllm(folder: Path, args: argparse.Namespace) -> Iterator[Front]:
    port = free_port()
    engine = [str(port), str(BUNDLED_BASE), BASE, str(STEP)]
    command = [str(args.vllm_python), "-m", "bench.vllm_front", *engine]
    url = f"http://127.0.0.1:{port}/health"
    with answering(command, url, folder / "vllm.log") as process:
        yield Front(port, "none", [process.pid])


async def measure(up: Front, args: argparse.Namespace) -> Figures:
    """Load one side, and count."""
    body = {"model": BASE, "messages": MESSAGES}
    streams = Streams(up.port, up.key, body, args.tokens)
    await streams.open(args.streams)
    await streams.listen(args.lead)
    before, began = [cpu_seconds(pid) for pid in up.pids], time.monotonic()
    heard = await streams.listen(args.seconds)
    seconds = time.monotonic() - began
    used = [cpu_seconds(pid) - was for pid, was in zip(up.pids, before, strict=True)]
    streams.close()
    tokens = len(heard.latencies)
    added = statistics.quantiles(heard.latencies, n=100)
    return Figures(
        rate=round(tokens / seconds),
        cpu=[round(one / tokens * 1e6, 1) for one in used],
        p50=round(added[49] / 1000, 1),
        p99=round(added[98] / 1000, 1),
        requests=round(heard.ended / seconds, 1),
    )


def middle(rounds: Sequence[Figures]) -> Figures:
    """Take the round of the median CPU time."""
    return sorted(rounds, key=lambda one: sum(one.cpu))[len(rounds) // 2]


def compare(found: dict[str, Figures]) -> list[Line]:
    """Set our sides against the peer, or, without one, the socket against none at all."""
    if (peer := found.get("vllm") or found.get("inside")) is None:
        return []
    lines = []
    for side in (side for side in ("socket", "inside") if side in found):
        one = found[side]
        figures = (
            ("CPU of the API", "us/token", one.cpu[0], peer.cpu[0], 1.0),
            ("CPU of all", "us/token", sum(one.cpu), sum(peer.cpu), None),
            ("added p50", "ms", one.p50, peer.p50, None),
            ("added p99", "ms", one.p99, peer.p99, None),
            ("tokens a second", "tok/s", one.rate, peer.rate, None),
        )
        for what, unit, ours, its, most in figures:
            case = f"{side}, {what}"
            lines.append(Line(case=case, ours=ours, peer=its, unit=unit, most=most))
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True, help="no GPU is used")
    parser.add_argument("--vllm-python", type=Path, help="of an environment with vLLM in it")
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256, help="of an answer, on average")
    parser.add_argument("--lead", type=float, default=5, help="seconds before what is counted")
    parser.add_argument("--seconds", type=float, default=20, help="of a side in a round")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
