"""What lies between two tokens, while the same process trains: `coserve` without HTTP.

The runtime's own parts, in this process: a burst is so many streams of as many tokens, that arrive
`--trickle` milliseconds apart. Without training, and with bursts at 10, 30 and 60 % of the time, it
prints the gaps between a stream's tokens as the base's thread gave them, and what the longest are
made of: the step, prompts in it, training, and the longest stretch of that between two lines of
code. `--busy` counts the CPU time of the base's thread instead of the wall's: what others do to a
machine is left out of that, waiting for Python's lock as well.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from bench import bases
from bench.coserve import LONGEST, SHARES
from bench.guide import write_tickets
from service.base.description import describe
from service.datasets.inspection import examples_of
from service.rendering.renderer import Renderer
from service.runtime.conductor import Conductor
from service.runtime.residence import Residence, move_in
from service.serving.engine import GenerationRequest, Sampling
from service.settings import Settings
from service.training.spec import TrainingSpec
from service.training.trainer import StepDone, TrainingEvent, TrainingTask


class Stretch(msgspec.Struct, frozen=True):
    """Training between two pauses, and the lines of code that they are in."""

    begin: float
    end: float
    between: str


class Turn(msgspec.Struct, frozen=True):
    """One of generation's."""

    begin: float
    end: float
    prompts: int
    """Passes that took in prompts."""
    tokens: int


class Trace:
    """Listens in on a conductor's turns."""

    def __init__(self, residence: Residence, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.turns: list[Turn] = []
        self.stretches: list[Stretch] = []
        self.prompts = 0
        self._loop = residence.engine.loop  # type: ignore[union-attr]
        self._since, self._place = self.clock(), ""
        model = self._loop._backend._batch._model
        self._forward, model.forward = model.forward, self.forward

    @property
    def wanted(self) -> bool:
        """See Generation."""
        return bool(self._loop.wanted)

    @property
    def answering(self) -> bool:
        """See Generation."""
        return bool(self._loop.answering)

    def turn(self) -> bool:
        """See Generation."""
        before, self.prompts = self._loop.status().generated_tokens, 0
        begin = self.clock()
        worked = self._loop.turn()
        made = self._loop.status().generated_tokens - before
        self.turns.append(Turn(begin, self.clock(), self.prompts, made))
        return bool(worked)

    def forward(self, adapters: Any, chunks: Any) -> Any:
        """Count what takes in prompts."""
        self.prompts += any(len(chunk.tokens) > 1 for chunk in chunks)
        return self._forward(adapters, chunks)

    def listen(self, conductor: Conductor) -> None:
        """Be told of training's pauses, and of what its turns are made of besides."""
        trained, went_on = conductor._trained, conductor._train

        def told() -> None:
            trained()
            frame = sys._getframe(1)
            while frame.f_code.co_name == "pause" and frame.f_back is not None:
                frame = frame.f_back
            now, place = self.clock(), f"{frame.f_code.co_name}:{frame.f_lineno}"
            self.stretches.append(Stretch(self._since, now, f"{self._place} -> {place}"))
            self._place = place

        def pause() -> None:
            conductor.__class__.pause(conductor)
            self._since = self.clock()

        def train() -> bool:
            self._since, self._place = self.clock(), "begin"
            return went_on()

        conductor._trained, conductor._train = told, train  # type: ignore[method-assign]
        conductor.pause = pause  # type: ignore[method-assign]


class Streams:
    """Bursts of requests."""

    def __init__(self, residence: Residence, args: Any) -> None:
        self._engine: Any = residence.engine
        self._args = args
        self._random = Random(0)  # noqa: S311 - no secret

    async def burst(self) -> float:
        """Run one to its end; give its seconds."""
        began = time.perf_counter()
        each = [self._stream(at * self._args.trickle / 1000) for at in range(self._args.streams)]
        await asyncio.gather(*each)
        return time.perf_counter() - began

    async def every(self, period: float, seconds: float) -> None:
        """Begin a burst every `period`."""
        end, under_way = time.perf_counter() + seconds, []
        while (left := end - time.perf_counter()) > 0:
            under_way.append(asyncio.create_task(self.burst()))
            await asyncio.sleep(min(period, left))
        await asyncio.gather(*under_way)

    async def _stream(self, late: float) -> None:
        await asyncio.sleep(late)
        prompt = [self._random.randrange(5, 4096) for _ in range(32)]
        seed = self._random.randrange(2**31)
        sampling = Sampling(max_tokens=self._args.tokens, temperature=2, seed=seed, ignore_eos=True)
        asked = GenerationRequest(id="bench", revision=None, prompt=prompt, sampling=sampling)
        async for _ in self._engine.generate(asked):
            pass


class Gap(msgspec.Struct, frozen=True):
    """Between two turns that follow each other, as each of so many streams sees it."""

    seconds: float
    streams: int
    turn: Turn
    trained: float
    stretch: Stretch | None
    """Training's longest."""


def gaps(trace: Trace) -> list[Gap]:
    """Pair the turns of a burst."""
    found, at = [], 0
    for before, turn in zip(trace.turns, trace.turns[1:], strict=False):
        there = []
        while at < len(trace.stretches) and trace.stretches[at].end <= turn.begin:
            if trace.stretches[at].end > before.end:
                there.append(trace.stretches[at])
            at += 1
        trained = sum(one.end - max(one.begin, before.end) for one in there)
        longest = max(there, key=lambda one: one.end - one.begin, default=None)
        streams = min(before.tokens, turn.tokens)
        if streams:
            found.append(Gap(turn.end - before.end, streams, turn, trained, longest))
    return found


def tell(name: str, trace: Trace) -> float:
    """Print and forget what was heard; give the gap's 99th percentile."""
    found = gaps(trace)
    each = [gap.seconds for gap in found for _ in range(gap.streams)]
    marks = statistics.quantiles(each, n=100)
    p50, p90, p99 = (marks[at] * 1000 for at in (49, 89, 98))
    steps = statistics.median(gap.turn.end - gap.turn.begin for gap in found) * 1000
    print(f"{name}: gaps p50 {p50:.1f}, p90 {p90:.1f}, p99 {p99:.1f} ms; a step {steps:.1f} ms")
    worst = sorted(found, key=lambda gap: -gap.seconds)[: max(8, len(found) // 50)]
    for gap in worst[:8]:
        turn, one = gap.turn, gap.stretch
        what = "" if one is None else f"; {(one.end - one.begin) * 1000:.1f} in {one.between}"
        print(
            f"  {gap.seconds * 1000:5.1f}: step {(turn.end - turn.begin) * 1000:.1f} "
            f"({turn.prompts} prompt passes), trained {gap.trained * 1000:.1f}{what}"
        )
    causes = Counter(gap.stretch.between for gap in worst if gap.stretch)
    print(f"  stretches of the worst: {causes.most_common(5)}", flush=True)
    places: dict[str, list[float]] = {}
    for one in trace.stretches:
        places.setdefault(one.between, []).append((one.end - one.begin) * 1000)
    longest = sorted(((max(v), statistics.median(v), k) for k, v in places.items()), reverse=True)
    print("  longest:", [f"{k} {most:.1f} (median {usual:.1f})" for most, usual, k in longest[:6]])
    trace.turns.clear()
    trace.stretches.clear()
    return marks[98]


async def measure(residence: Residence, trace: Trace, begin: Any, args: Any) -> None:
    """Measure generation alone, then with training."""
    streams = Streams(residence, args)
    await streams.burst()
    trace.turns.clear()
    alone = statistics.median([await streams.burst() for _ in range(args.bursts)])
    calm = tell(f"alone, a burst {alone:.2f} s", trace)
    tokens = begin()
    while not tokens():  # noqa: ASYNC110 - counted by other threads
        await asyncio.sleep(0.5)
    await asyncio.sleep(args.seconds / 4)

    async def rate(other: Any) -> float:
        before, began = tokens(), time.perf_counter()
        await other
        return (tokens() - before) / (time.perf_counter() - began)

    whole = await rate(asyncio.sleep(args.seconds))
    for share in SHARES:
        trace.turns.clear()
        trace.stretches.clear()
        period = alone / share
        kept = await rate(streams.every(period, args.seconds))
        p99 = tell(f"{share:.0%}: training {kept / whole:.0%}", trace)
        print(f"  p99 {p99 / calm:.2f} of alone", flush=True)


def begin_training(residence: Residence, folder: Path, args: Any) -> Any:
    """Start jobs in threads of their own; give what counts their tokens."""
    counted: dict[int, int] = {}
    ended = threading.Event()

    def work(number: int) -> None:
        examples = examples_of(write_tickets(folder, number, 200))
        spec = TrainingSpec(n_epochs=LONGEST, batch_size=8, seed=7)
        place = folder / f"job-{number}"
        place.mkdir()
        task = TrainingTask(f"job-{number}", spec, examples[10:], examples[:10], place)

        def hear(event: TrainingEvent) -> None:
            if isinstance(event, StepDone):
                counted[number] = event.tokens

        residence.trainers["supervised"].train(task, hear, ended.is_set)

    for number in range(args.tenants):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    return lambda: sum(list(counted.values()))


def main() -> None:
    """Run a preset."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = bases.served(folder, args)
        settings = Settings(admin_key="bench", data_dir=folder, torch_threads=args.threads)
        residence = move_in(settings, Renderer(describe(str(base))), trains=True, generates=True)
        trace = Trace(residence, time.thread_time if args.busy else time.perf_counter)
        trace.listen(residence.conductor)
        residence.batch._trainer.resident.pause = residence.conductor.pause  # type: ignore[union-attr]
        residence.conductor.start(trace, residence.training)
        begin = lambda: begin_training(residence, folder, args)  # noqa: E731
        asyncio.run(measure(residence, trace, begin, args))
        os._exit(0)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", type=Path, help="keep the h200 preset's base here")
    parser.add_argument("--tenants", type=int, default=8)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of a stream")
    parser.add_argument("--trickle", type=float, default=2.0, help="ms between arrivals of a burst")
    parser.add_argument("--bursts", type=int, default=10, help="of generation alone")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--busy", action="store_true", help="count CPU time, not the wall's")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
