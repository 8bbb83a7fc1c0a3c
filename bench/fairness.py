"""Time to the first token of a light tenant while another sends fifty times as much.

Both send completions over HTTP at random times (Poisson), whether or not earlier ones are answered:
the light tenant at `--rate` a second, the heavy one, in a process of its own, fifty times that.
What is refused is not sent again. Three phases on the same service:

- alone: the light tenant only;
- fair: the heavy one as a tenant of its own, so that turns go by virtual token counters;
- one queue: the peer. Both with keys of one tenant, within which it is first come, first served.

Rows are milliseconds with company against alone. The last row is how long the heavy tenant's
refusals took, against 50 ms.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec

from bench import bases
from bench.running import BASE, Service, key_of
from bench.table import Line, report

TIMES = 50
LEAD_SECONDS = 5.0
"""By which the heavy tenant begins before what is timed, and goes on after it."""
MOST, WITHIN_MS = 1.5, 50.0


class Asked(msgspec.Struct, frozen=True):
    """What came of one request, in milliseconds."""

    answered: float
    """Until the status came."""
    first: float | None
    """Until the first token; None if it was refused."""


class Sender:
    """Sends one tenant's requests at their times."""

    def __init__(self, url: str, key: str, args: Any, seed: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=600,
            limits=httpx.Limits(max_connections=None),
            headers={"authorization": f"Bearer {key}"},
        )
        self._args = args
        self._random = Random(seed)  # noqa: S311 - no secret

    async def send(self, rate: float, seconds: float, *, waits: bool = True) -> list[Asked]:
        """Send for so long; give what came of all of them, or of those answered by then."""
        at, end = time.perf_counter(), time.perf_counter() + seconds
        under_way = []
        async with self._client:
            while (at := at + self._random.expovariate(rate)) < end:
                await asyncio.sleep(at - time.perf_counter())
                under_way.append(asyncio.create_task(self._one()))
            if waits:
                await asyncio.gather(*under_way)
            ended = [one.result() for one in under_way if one.done()]
            for one in under_way:
                one.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            return ended

    async def _one(self) -> Asked:
        body = {
            "model": BASE,
            "prompt": [self._random.randrange(5, 4096) for _ in range(self._args.prompt)],
            "max_tokens": self._args.tokens,
            # Hot enough that hardly any ends by itself.
            "temperature": 2,
            "seed": self._random.randrange(2**31),
            "stream": True,
        }
        began = time.perf_counter()
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            answered, first = _milliseconds(began), None
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                return Asked(answered, None)
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if first is None and line.startswith("data: {"):
                    first = _milliseconds(began)
            return Asked(answered, first)


def flood(url: str, key: str, args: Any, told: Any) -> None:
    """Be the heavy tenant, in a process of its own; tell what came of its requests."""
    seconds = args.seconds + 2 * LEAD_SECONDS
    sender = Sender(url, key, args, 1)
    asked = asyncio.run(sender.send(TIMES * args.rate, seconds, waits=False))
    told.send([(one.answered, one.first) for one in asked])


def light(url: str, key: str, args: Any) -> list[float]:
    """Be the light tenant; give the times to the first token."""
    asked = asyncio.run(Sender(url, key, args, 2).send(args.rate, args.seconds))
    if refused := sum(one.first is None for one in asked):
        print(f"the light tenant was refused {refused} times of {len(asked)}", flush=True)
    return [one.first for one in asked if one.first is not None]


def beside(url: str, heavy: str, key: str, args: Any) -> tuple[list[float], list[Asked]]:
    """Be both at once."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=flood, args=(url, heavy, args, theirs)
    )
    process.start()
    # Ours alone is left open then: if the process fails, the end is seen here.
    theirs.close()
    time.sleep(LEAD_SECONDS)
    found = light(url, key, args)
    asked = [Asked(*one) for one in ours.recv()]
    process.join()
    return found, asked


def main() -> None:
    """Run a preset."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            "LOREHOUSE_BASE_MODEL": str(bases.served(folder, args)),
            "LOREHOUSE_TORCH_THREADS": str(args.threads),
        }
        with Service(folder, **settings) as running:
            heavy, small = (key_of(running.tenant(name)) for name in ("heavy", "light"))
            for phase in (_warmed(args), args):
                alone = light(running.url, small, phase)
            _say("alone", alone)
            fair, asked = beside(running.url, heavy, small, args)
            _say("fair", fair, asked)
            queued, asked_too = beside(running.url, heavy, heavy, args)
            _say("one queue", queued, asked_too)
    refusals = [one.answered for one in [*asked, *asked_too] if one.first is None]
    lines = [
        *compare("fair", fair, alone, most=MOST),
        *compare("one queue", queued, alone, most=None),
    ]
    if len(refusals) > 1:
        took = _p95(refusals)
        lines.append(Line(case="a refusal, p95", ours=took, peer=WITHIN_MS, unit="ms", most=1))
    report("fairness", args.preset, lines)


def compare(
    phase: str, found: Sequence[float], alone: Sequence[float], *, most: float | None
) -> list[Line]:
    """Set a phase's first tokens against those alone; `most` is the p95's target."""
    p50, p50_alone = statistics.median(found), statistics.median(alone)
    p95, p95_alone = _p95(found), _p95(alone)
    case = f"{phase}, first token"
    return [
        Line(case=f"{case} p50", ours=p50, peer=p50_alone, unit="ms"),
        Line(case=f"{case} p95", ours=p95, peer=p95_alone, unit="ms", most=most),
    ]


def _say(phase: str, found: Sequence[float], asked: Sequence[Asked] = ()) -> None:
    refused = [one.answered for one in asked if one.first is None]
    print(
        f"{phase}: {len(found)} first tokens, p50 {statistics.median(found):.0f} ms, "
        f"p95 {_p95(found):.0f} ms; the heavy tenant was answered {len(asked)} times, "
        f"{len(refused)} of them by 503; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _p95(found: Sequence[float]) -> float:
    return statistics.quantiles(found, n=20, method="inclusive")[18]


def _milliseconds(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _warmed(args: Any) -> Any:
    return argparse.Namespace(**{**vars(args), "seconds": LEAD_SECONDS})


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", type=Path, help="keep the h200 preset's base here")
    parser.add_argument("--rate", type=float, default=1.0, help="of the light tenant, a second")
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
