"""Training rate kept, and time between tokens, while the same service generates.

A burst is so many streams at once, of as many tokens each, on adapters and the base in turn. Alone
it takes D seconds. With training under way, a burst begins every D / share seconds, for shares of
10, 30 and 60 %: that is generation at a fixed rate which alone would take that share of the time.
Two rows for each share:

- both shares: ours is the training rate kept, plus generation's share in the same unit; the peer is
  training alone, as it was before, between and after. At 1 living together costs nothing.
- p99: tokens per second of a stream at the 99th percentile of the gaps between its pieces; the peer
  is generation alone. 0.67 is 1.5 times the gap.

All of it through HTTP; the client's own work takes part of a small machine.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import httpx
import msgspec

from bench import bases
from bench.guide import published, write_tickets
from bench.measure import Row, report
from bench.running import BASE, Service, key_of, start_job, upload

SHARES = (0.1, 0.3, 0.6)
T = TypeVar("T")
LONGEST = 50
"""Epochs, so that no job ends before the bench does."""


class Burst(msgspec.Struct, frozen=True):
    """What came of a burst: when each of its streams' pieces came."""

    began: float
    streams: list[list[float]]

    @property
    def seconds(self) -> float:
        """Until the last piece."""
        return max(times[-1] for times in self.streams) - self.began

    @property
    def gaps(self) -> list[float]:
        """Between pieces of the same stream."""
        pairs = itertools.chain(*(itertools.pairwise(times) for times in self.streams))
        return [after - before for before, after in pairs]


class Generation:
    """Streams on the models of several tenants."""

    def __init__(self, url: str, models: Sequence[tuple[str, str]], args: Any) -> None:
        """`models` are names with the keys of those who may call them."""
        self._models = models
        self._args = args
        self._client = httpx.AsyncClient(base_url=url, timeout=600)
        self._random = Random(0)  # noqa: S311 - no secret

    async def burst(self) -> Burst:
        """Run one burst to its end."""
        began = time.perf_counter()
        chosen = [self._models[at % len(self._models)] for at in range(self._args.streams)]
        return Burst(began, list(await asyncio.gather(*(self._stream(*one) for one in chosen))))

    async def every(self, period: float, seconds: float) -> list[Burst]:
        """Begin a burst every `period`, and give those that ended in time."""
        end = time.perf_counter() + seconds
        under_way = []
        while (left := end - time.perf_counter()) > 0:
            under_way.append(asyncio.create_task(self.burst()))
            await asyncio.sleep(min(period, left))
        for late in (task for task in under_way if not task.done()):
            late.cancel()
        done = await asyncio.gather(*under_way, return_exceptions=True)
        if faults := [one for one in done if isinstance(one, Exception)]:
            raise faults[0]
        return [one for one in done if isinstance(one, Burst)]

    async def _stream(self, model: str, key: str) -> list[float]:
        body = {
            "model": model,
            "prompt": [self._random.randrange(5, 4096) for _ in range(32)],
            "max_tokens": self._args.tokens,
            # Hot enough that hardly any stream ends by itself.
            "temperature": 2,
            "seed": self._random.randrange(2**31),
            "stream": True,
        }
        headers = {"authorization": f"Bearer {key}"}
        async with self._client.stream(
            "POST", "/v1/completions", json=body, headers=headers
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                raise RuntimeError((await answer.aread()).decode())
            lines = answer.aiter_lines()
            return [time.perf_counter() async for line in lines if line.startswith("data: {")]


class Training:
    """Jobs that are under way, and go on until they are cancelled."""

    def __init__(self, tenants: Sequence[httpx.Client], files: Sequence[str]) -> None:
        supervised = {"hyperparameters": {"n_epochs": LONGEST, "batch_size": 8}}
        self._jobs = [
            (tenant, start_job(tenant, file, **supervised))
            for tenant, file in zip(tenants, files, strict=True)
        ]
        while not self.tokens():
            time.sleep(0.5)

    def tokens(self) -> int:
        """Give the tokens that all jobs have been trained on."""
        return sum(self._trained(tenant, job) for tenant, job in self._jobs)

    def cancel(self) -> None:
        """End the jobs."""
        for tenant, job in self._jobs:
            tenant.post(f"/v1/fine_tuning/jobs/{job}/cancel").raise_for_status()

    def _trained(self, tenant: httpx.Client, job: str) -> int:
        page = tenant.get(f"/v1/fine_tuning/jobs/{job}/events", params={"limit": 5})
        events = page.raise_for_status().json()["data"]
        return max((int((one["data"] or {}).get("trained_tokens", 0)) for one in events), default=0)


async def measure(generation: Generation, begin: Callable[[], Training], args: Any) -> list[Row]:
    """Measure each side alone, then both together."""
    await generation.burst()
    alone = [await generation.burst() for _ in range(args.bursts)]
    burst_seconds = statistics.median(one.seconds for one in alone)
    calm = _p99(alone)
    print(f"a burst alone: {burst_seconds:.2f} s, p99 gap {calm * 1000:.1f} ms", flush=True)
    training = await asyncio.to_thread(begin)
    await asyncio.sleep(args.seconds / 4)
    full = [await _alone(training, args.seconds)]
    found = []
    for share in SHARES:
        found.append(await _together(training, generation, burst_seconds / share, args.seconds))
        full.append(await _alone(training, args.seconds))
    await asyncio.to_thread(training.cancel)
    rows = []
    for share, (rate, bursts, seconds) in zip(SHARES, found, strict=True):
        had, gap = len(bursts) * burst_seconds / seconds, _p99(bursts)
        whole = statistics.median(full)
        print(f"{share:.0%}: training {rate / whole:.0%}, generation {had:.0%}", flush=True)
        rows.append(Row(f"{share:.0%} generation, both shares", rate + had * whole, whole))
        rows.append(Row(f"{share:.0%} generation, p99 of a stream", 1 / gap, 1 / calm))
    return rows


def main() -> None:
    """Run a preset."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = bases.served(folder, args)
        settings = {"LOREHOUSE_BASE_MODEL": str(base), "LOREHOUSE_TORCH_THREADS": str(args.threads)}
        with Service(folder, **settings) as running:
            tenants = [running.tenant(f"tenant-{number}") for number in range(args.tenants)]
            rows = [write_tickets(folder, number, 200) for number in range(args.tenants)]
            files = [upload(*pair) for pair in zip(tenants, rows, strict=True)]
            generation = Generation(running.url, _models(tenants, files), args)
            table = asyncio.run(measure(generation, lambda: Training(tenants, files), args))
    report("coserve", args.preset, table)


def _models(tenants: Sequence[httpx.Client], files: Sequence[str]) -> list[tuple[str, str]]:
    """Train a little adapter for some tenants, that speaks like the base; add the base."""
    supervised = {"hyperparameters": {"n_epochs": 1, "batch_size": 64}, "learning_rate": 1e-5}
    some = list(zip(tenants, files, strict=True))[:4]
    jobs = [(tenant, start_job(tenant, file, **supervised)) for tenant, file in some]
    names = [(published(tenant, job)["fine_tuned_model"], key_of(tenant)) for tenant, job in jobs]
    return [*names, (BASE, key_of(tenants[0]))]


async def _alone(training: Training, seconds: float) -> float:
    rate, _ = await _meanwhile(training, asyncio.sleep(seconds))
    print(f"training alone: {rate:,.0f} tok/s", flush=True)
    return rate


async def _together(
    training: Training, generation: Generation, period: float, least_seconds: float
) -> tuple[float, list[Burst], float]:
    """Give the rate of training, the bursts, and the seconds that they had."""
    seconds = max(least_seconds, 4 * period)
    rate, bursts = await _meanwhile(training, generation.every(period, seconds))
    return rate, bursts, seconds


async def _meanwhile(training: Training, other: Awaitable[T]) -> tuple[float, T]:
    """Give the rate of training until `other` is done."""
    began, before = time.perf_counter(), await asyncio.to_thread(training.tokens)
    result = await other
    after = await asyncio.to_thread(training.tokens)
    return (after - before) / (time.perf_counter() - began), result


def _p99(bursts: Sequence[Burst]) -> float:
    return statistics.quantiles([gap for burst in bursts for gap in burst.gaps], n=100)[98]


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--base", type=Path, help="keep the h200 preset's base here")
    parser.add_argument("--tenants", type=int, default=8)
    parser.add_argument("--streams", type=int, help="in a burst; by default 8, on a GPU 32")
    parser.add_argument("--tokens", type=int, default=64, help="of a stream")
    parser.add_argument("--bursts", type=int, default=5, help="of generation alone")
    parser.add_argument("--seconds", type=float, help="of each share; by default 15, on a GPU 10")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    args = parser.parse_args()
    args.streams = args.streams or (8 if args.preset == "cpu" or args.small else 32)
    args.seconds = args.seconds or (15 if args.preset == "cpu" else 10)
    return args


if __name__ == "__main__":
    main()
