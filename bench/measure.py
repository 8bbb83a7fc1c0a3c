"""Timing, and how results are printed."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec
import torch


class Row(msgspec.Struct, frozen=True):
    """One case; `ours` and `peer` are tokens per second."""

    case: str
    ours: float
    peer: float
    spread: float = 0.0
    """Of ours: (slowest - quickest) / median round."""

    @property
    def ratio(self) -> float:
        """How many times the peer's rate is ours."""
        return self.ours / self.peer


class Timed(msgspec.Struct, frozen=True):
    """Seconds of a round."""

    median: float
    spread: float


def rounds(run: Callable[[], object], *, warm_up: int, count: int) -> Timed:
    """Time `run` some times, after it has run `warm_up` times."""
    for _ in range(warm_up):
        run()
    return spread_of([_once(run) for _ in range(count)])


def spread_of(seconds: Sequence[float]) -> Timed:
    """Sum rounds up."""
    median = statistics.median(seconds)
    return Timed(median, (max(seconds) - min(seconds)) / median)


def forget() -> None:
    """Give back memory that nothing refers to, before the next case."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    """Tell the most GPU memory in use since `forget`."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def report(bench: str, preset: str, rows: Sequence[Row]) -> None:
    """Print a table, and as the last line one JSON object."""
    width = max(len(row.case) for row in rows)
    print(f"{'case':<{width}}  {'ours tok/s':>11}  {'peer tok/s':>11}  {'ratio':>6}  spread")
    for row in rows:
        line = f"{row.case:<{width}}  {row.ours:>11,.0f}  {row.peer:>11,.0f}  {row.ratio:>6.2f}"
        print(f"{line}  {row.spread:.0%}")
    given = [
        {"case": r.case, "ours": round(r.ours), "peer": round(r.peer), "ratio": round(r.ratio, 2)}
        for r in rows
    ]
    print(json.dumps({"bench": bench, "preset": preset, "rows": given}))


def synchronise() -> None:
    """Wait for what was given to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _once(run: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start
