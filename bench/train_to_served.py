"""From a job's last optimizer step to its revision's first token, and what others notice.

Through HTTP, on a running service. Another tenant's streams go on all the time; one small job after
the other is trained, and as soon as its model has a name it is asked for a token. The last step is
seen in the runtime's own metrics, which are read every 10 ms.

- last step to first token: against 500 ms; of that, until the model has a name (evaluated, written,
  examined by the publish gate, recorded), and the first request to it;
- p99 between the others' tokens, from last step to first token, against the same streams with
  nothing else going on: 1 is no stall.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import httpx
import msgspec

from bench import bases
from bench.guide import published, write_tickets
from bench.running import BASE, Service, free_port, key_of, start_job, upload
from bench.sides import Size, add_arguments, parsed
from bench.table import Line, report
from bench.workload import RANK

MOST_MS, MOST_STALL = 500.0, 1.2
LOOK_SECONDS = 0.01
STEPS = "lorehouse_training_steps_total "
BATCH = 8


class Served(msgspec.Struct, frozen=True):
    """When what happened to one job; `time.perf_counter`."""

    last_step: float
    named: float
    first_token: float


class Others:
    """Streams that begin again when they end."""

    def __init__(self, url: str, key: str, args: argparse.Namespace) -> None:
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=600)
        self._args, self._random = args, Random(3)  # noqa: S311 - no secret
        self.gaps: list[tuple[float, float]] = []
        """When a token came, and how long after the one before."""

    async def run(self) -> None:
        """Stream until cancelled."""
        await asyncio.gather(*(self._one() for _ in range(self._args.streams)))

    def p99(self, windows: list[tuple[float, float]]) -> float:
        """Give the 99th percentile of the gaps that ended in one of the windows; milliseconds."""
        inside = [gap for at, gap in self.gaps if any(a <= at <= b for a, b in windows)]
        return 1000 * statistics.quantiles(inside, n=100, method="inclusive")[98]

    async def _one(self) -> None:
        while True:
            prompt = [self._random.randrange(5, 4096) for _ in range(32)]
            body = {"model": BASE, "prompt": prompt, "max_tokens": self._args.tokens}
            body |= {"stream": True, "temperature": 2, "ignore_eos": True}
            async with self._client.stream("POST", "/v1/completions", json=body) as answer:
                answer.raise_for_status()
                lines = answer.aiter_lines()
                came = [time.perf_counter() async for line in lines if line.startswith("data: {")]
            self.gaps += [(after, after - before) for before, after in itertools.pairwise(came)]


class Jobs:
    """Small jobs of one tenant's, one after the other."""

    def __init__(
        self, client: httpx.Client, files: Sequence[str], metrics: str, args: argparse.Namespace
    ) -> None:
        """One file for each job: equal jobs make one revision, which is examined once."""
        self._client, self._files, self._args = client, iter(files), args
        self._metrics = httpx.Client(base_url=metrics)

    def serve_one(self) -> Served:
        """Train a job and call what it made."""
        steps = -(-self._args.examples // BATCH) + self._steps()
        job = start_job(
            self._client,
            next(self._files),
            hyperparameters={"n_epochs": 1, "batch_size": BATCH},
            validation_split=0,
        )
        while self._steps() < steps:
            time.sleep(LOOK_SECONDS)
        last_step = time.perf_counter()
        done = published(self._client, job, look_seconds=LOOK_SECONDS)
        named = time.perf_counter()
        self._first_token(done["fine_tuned_model"])
        return Served(last_step, named, time.perf_counter())

    def _steps(self) -> int:
        lines = self._metrics.get("/metrics").raise_for_status().text.splitlines()
        return int(float(next(one for one in lines if one.startswith(STEPS)).split()[1]))

    def _first_token(self, name: str) -> None:
        body = {"model": name, "prompt": "Ticket:", "max_tokens": 4, "stream": True}
        with self._client.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            next(line for line in answer.iter_lines() if line.startswith("data: {"))


async def measure(others: Others, jobs: Jobs, args: argparse.Namespace) -> list[Line]:
    """Listen to the others alone, then beside each job's end."""
    streaming = asyncio.create_task(others.run())
    await asyncio.to_thread(jobs.serve_one)  # warms both up
    await asyncio.sleep(args.quiet / 2)
    began = time.perf_counter()
    await asyncio.sleep(args.quiet)
    calm = [(began, time.perf_counter())]
    found = []
    for _ in range(args.jobs):
        found.append(await asyncio.to_thread(jobs.serve_one))
        print(
            f"last step to name {1000 * (found[-1].named - found[-1].last_step):.0f} ms, "
            f"to first token {1000 * (found[-1].first_token - found[-1].last_step):.0f} ms",
            flush=True,
        )
    # The streams' gaps are noted when they end.
    await asyncio.sleep(args.quiet / 2)
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)
    ends = [(one.last_step, one.first_token) for one in found]
    whole = [1000 * (one.first_token - one.last_step) for one in found]
    named = [1000 * (one.named - one.last_step) for one in found]
    asked = [1000 * (one.first_token - one.named) for one in found]
    return [
        Line(
            case="last step to first token, p50",
            ours=statistics.median(whole),
            peer=MOST_MS,
            unit="ms",
            most=1,
        ),
        Line(case="... at most", ours=max(whole), peer=MOST_MS, unit="ms"),
        Line(case="... until named, p50", ours=statistics.median(named), peer=MOST_MS, unit="ms"),
        Line(case="... first request, p50", ours=statistics.median(asked), peer=MOST_MS, unit="ms"),
        Line(
            case="p99 between others' tokens",
            ours=others.p99(ends),
            peer=others.p99(calm),
            unit="ms",
            most=MOST_STALL,
        ),
    ]


def main() -> None:
    """Run a preset."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings = {
            "LOREHOUSE_BASE_MODEL": str(bases.served(folder, args)),
            "LOREHOUSE_TORCH_THREADS": str(args.threads),
            "LOREHOUSE_ENGINE": args.engine,
            "LOREHOUSE_QUANTIZATION": "none",
            "LOREHOUSE_MAX_BATCH": str(args.sequences),
            "LOREHOUSE_MAX_LORA_RANK": str(RANK),
            "LOREHOUSE_RUNTIME_METRICS_PORT": str(port),
            # Random weights learn nothing: what is measured is how long the gate takes.
            "LOREHOUSE_GATE_MARGIN": "1000",
        }
        with Service(folder, **settings) as running:
            client = running.tenant("trainer")
            rows = [write_tickets(folder, job, args.examples) for job in range(args.jobs + 1)]
            files = [upload(client, one) for one in rows]
            others = Others(running.url, key_of(running.tenant("other")), args)
            jobs = Jobs(client, files, f"http://127.0.0.1:{port}", args)
            lines = asyncio.run(measure(others, jobs, args))
    report("train_to_served", args.preset, lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--examples", type=int, default=64, help="of a job; 8 are a step")
    parser.add_argument("--streams", type=int, default=Size(4, 32), help="of others; %(default)s")
    parser.add_argument("--tokens", type=int, default=128, help="of a stream")
    parser.add_argument("--quiet", type=float, default=10, help="seconds with nothing else")
    return parsed(parser)


if __name__ == "__main__":
    main()
