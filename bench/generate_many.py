"""Decoding with many adapters in one batch, against PEFT's `adapter_names` and the base alone.

Prompts of equal length are read first and not timed; then every step gives each row one token.
There are three peers: PEFT's mixed batch on transformers' own cache, our batch without any adapter,
and, for that one, transformers without PEFT. The first tokens of both sides are compared.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from bench import bases
from bench.measure import Row, Timed, forget, peak_gib, report, rounds
from bench.peft_peer import Decoding, MixedPeft
from bench.resident import Resident
from bench.workload import SidesDiffer
from service.base.segmented.base import SegmentedBase

WARM_UP = 3


class Case(msgspec.Struct, frozen=True):
    """A batch of `rows`, in which `adapters` take turns; 0 is the bare base."""

    rows: int
    adapters: int

    def rate(self, timed: Timed) -> float:
        """Give tokens per second."""
        return self.rows / timed.median


class Figures(msgspec.Struct, frozen=True):
    """How long a step takes, and each row's first token."""

    timed: Timed
    first: list[int]


def peers(
    model: Any, cases: Sequence[Case], args: Any
) -> tuple[dict[Case, Figures], list[dict[str, Tensor]]]:
    """Time transformers and PEFT; give the adapters' weights as well."""
    figures = {
        case: _time(Decoding(model, _prompts(model, case.rows, args)), args)
        for case in cases
        if not case.adapters
    }
    peft = MixedPeft(model, max(case.adapters for case in cases))
    for case in (case for case in cases if case.adapters):
        forget()
        figures[case] = _time(peft.decode(_prompts(model, case.rows, args), case.adapters), args)
        rate = case.rate(figures[case].timed)
        print(f"PEFT, {case.rows} rows, {case.adapters} adapters: {rate:,.0f} tok/s", flush=True)
    weights = [peft.weights(number) for number in range(max(case.adapters for case in cases))]
    peft.close()
    return figures, weights


def ours(
    model: Any,
    cases: Sequence[Case],
    weights: Sequence[Mapping[str, Tensor]],
    cache: bool,
    args: Any,
) -> dict[Case, Figures]:
    """Time our batch, on one resident base for all cases."""
    base = SegmentedBase(model, cache_weights=cache)
    figures = {}
    for case in cases:
        forget()
        side = Resident(
            base,
            _prompts(model, case.rows, args).tolist(),
            weights[: case.adapters],
            args.prompt + WARM_UP + args.rounds + 64,
        )
        first = side.begin()
        figures[case] = Figures(rounds(side.step, warm_up=WARM_UP, count=args.rounds), first)
        rate = case.rate(figures[case].timed)
        print(
            f"ours, {case.rows} rows, {case.adapters} adapters: {rate:,.0f} tok/s, "
            f"{peak_gib():.1f} GiB",
            flush=True,
        )
        del side
    base.remove()
    return figures


def compare(model: Any, name: str, cases: Sequence[Case], args: Any) -> Iterator[Row]:
    """Time all sides on one base."""
    theirs, weights = peers(model, cases, args)
    for cache in (True, False) if name == "nf4" else (False,):
        held = f"{name} cached" if cache else name
        for case, here in (mine := ours(model, cases, weights, cache, args)).items():
            _check(here.first, theirs[case].first, model.dtype)
            rate, spread = case.rate(here.timed), here.timed.spread
            there = case.rate(theirs[case].timed)
            if case.adapters:
                what = f"{case.rows} rows, {case.adapters} adapters {held}"
                alone = case.rate(mine[Case(case.rows, 0)].timed)
                yield Row(f"{what}, PEFT adapter_names", rate, there, spread)
                yield Row(f"{what}, our base only", rate, alone, spread)
            else:
                yield Row(f"{case.rows} rows, base only {held}, transformers", rate, there, spread)


def main() -> None:
    """Run a preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--peer-rounds", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--only", default="", help="only bases whose name contains this")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = (32,) if args.preset == "cpu" else (4, 8) if args.small else (32, 128)
    counts = (0, 1, 4) if args.small else (0, 1, 8, 32)
    cases = [Case(rows, adapters) for rows in sizes for adapters in counts]
    table: list[Row] = []
    names = ("nf4", "fp32" if args.preset == "cpu" else "bf16")
    for name in (name for name in names if args.only in name):
        table += compare(_base(name, args), name, cases, args)
    report("generate_many", args.preset, table)


def _base(name: str, args: Any) -> Any:
    if args.preset == "cpu":
        return bases.bundled(name, args.threads)
    model = bases.random_llama(small=args.small)
    return bases.quantise(model) if name == "nf4" else model


def _prompts(model: Any, rows: int, args: Any) -> Tensor:
    random = torch.Generator().manual_seed(rows)
    drawn = torch.randint(5, model.config.vocab_size, (rows, args.prompt), generator=random)
    return drawn.to(model.device)


def _time(batch: Decoding, args: Any) -> Figures:
    first = batch.step()
    return Figures(rounds(batch.step, warm_up=WARM_UP, count=args.peer_rounds), first)


def _check(ours: list[int], theirs: list[int], dtype: torch.dtype) -> None:
    """Raise SidesDiffer; bf16 rounds near ties to either side, other adapters agree nowhere."""
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    if same < (0.5 if dtype == torch.bfloat16 else 0.99):
        raise SidesDiffer(f"only {same:.0%} of the rows begin with the same token")


if __name__ == "__main__":
    main()
