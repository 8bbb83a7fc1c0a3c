"""One job's rows on the segmented base, against TRL's SFTTrainer at its best, on the same tokens.

Both sides take the same optimizer steps: all examples in one, AdamW with clipping. TRL is timed in
each way that works here, without checkpointing and with the loss that it installs; the quickest in
the same precision, fp32 or bf16, is the peer and is named in the row. A way whose first loss is not
ours stops the bench.
"""

import argparse
import os
import random
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import torch
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_liger_kernel_available,
)

from bench import bases, trl_peer
from bench.measure import Row, Timed, forget, peak_gib, report, rounds
from bench.segmented import Segmented
from bench.trl_peer import Way
from bench.workload import ALL, check_losses, examples


class Case(msgspec.Struct, frozen=True):
    """The examples of one step, of equal lengths or of mixed ones."""

    lengths: tuple[int, ...]
    held: str
    bf16: bool
    cache: bool = False

    @property
    def padded(self) -> bool:
        """Whether a batch of them has padding."""
        return len(set(self.lengths)) > 1

    @property
    def name(self) -> str:
        """What the tables call it."""
        shortest, longest = min(self.lengths), max(self.lengths)
        size = f"{shortest}-{longest}" if self.padded else str(longest)
        return f"{len(self.lengths)}x{size} {self.held}{' cached' if self.cache else ''}"

    def rate(self, timed: Timed) -> float:
        """Give tokens per second."""
        return sum(self.lengths) / timed.median


def ways(model: Any) -> list[Way]:
    """List the peer's."""
    if model.device.type == "cpu":
        # A base held in bf16 is computed in that without autocast, too.
        return [Way(flat, "sdpa", bf16=bf16) for flat in (False, True) for bf16 in (False, True)]
    there = {
        "flash_attention_3": is_flash_attn_3_available(),
        "flash_attention_2": is_flash_attn_2_available(),
    }
    flat = [name for name, installed in there.items() if installed] or ["flex_attention"]
    plain = [Way(False, "sdpa"), *(Way(True, name) for name in flat)]
    if not is_liger_kernel_available():
        return plain
    return plain + [msgspec.structs.replace(way, liger=True) for way in plain]


def ours(model: Any, case: Case, args: Any) -> tuple[Timed, float]:
    """Time our side; give its first loss as well."""
    forget()
    side = Segmented(model, [examples(model, case.lengths, 0)], targets=ALL, cache=case.cache)
    first = float(side.round().mean())
    timed = rounds(side.round, warm_up=1, count=args.rounds)
    side.close()
    print(f"{case.name}: {case.rate(timed):,.0f} tok/s, {peak_gib():.1f} GiB", flush=True)
    return timed, first


def peer(model: Any, case: Case, way: Way, expected: float, args: Any) -> Timed | None:
    """Time the peer in one way; None if that does not run here."""
    forget()
    given = examples(model, case.lengths, 0)
    try:
        timed, first = trl_peer.train(model, given, ALL, way, args.rounds)
    except (RuntimeError, ImportError) as fault:
        print(f"{case.name}: TRL {way.name} does not run here: {str(fault)[:200]}", flush=True)
        return None
    print(
        f"{case.name}: TRL {way.name}, {case.rate(timed):,.0f} tok/s, {peak_gib():.1f} GiB, "
        f"first loss {first:.3f}, ours {expected:.3f}",
        flush=True,
    )
    check_losses(expected, first, 0.02)
    return timed


def compare(models: list[tuple[Any, list[Case]]], args: Any) -> Iterator[Row]:
    """Time cases of bases that differ in what they compute in, and maybe in our cache.

    They share the peers' figures: in bf16 TRL may be quicker on a base that is held in fp32.
    """
    every = [case for _, cases in models for case in cases]
    for lengths in dict.fromkeys(case.lengths for case in every):
        mine: dict[Case, Timed] = {}
        theirs: dict[bool, dict[str, Timed]] = {False: {}, True: {}}
        for model, cases in models:
            alike = [case for case in cases if case.lengths == lengths]
            for case in alike:
                mine[case], first = ours(model, case, args)
            for way in ways(model) if alike else ():
                # A batch without padding is what flat rows try to be.
                if alike[0].padded or not way.flat:
                    found = peer(model, alike[0], way, first, args)
                    bf16 = way.bf16 or model.dtype == torch.bfloat16
                    theirs[bf16] |= {f"{way.name} on {alike[0].held}": found} if found else {}
        for case, timed in mine.items():
            yield from against(case, timed, theirs[case.bf16])


def against(case: Case, timed: Timed, peers: dict[str, Timed]) -> Iterator[Row]:
    """Compare a case with the quickest of the peers in its precision; print it at once."""
    if peers:
        best = min(peers, key=lambda name: peers[name].median)
        row = Row(
            f"{case.name}, TRL {best}", case.rate(timed), case.rate(peers[best]), timed.spread
        )
        print(f"{row.case}: {row.ratio:.2f}", flush=True)
        yield row


def mixed(total: int, count: int) -> tuple[int, ...]:
    """Draw lengths from 1/4 to 7/4 of the mean, that make `total`."""
    draw = random.Random(0)  # noqa: S311 - no secret
    parts = [draw.uniform(0.25, 1.75) for _ in range(count)]
    ends = [round(total * end / sum(parts)) for end in accumulate(parts, initial=0)]
    return tuple(end - start for start, end in pairwise(ends))


def cpu_cases() -> Iterator[list[tuple[Any, list[Case]]]]:
    """The bundled base; 512 tokens a step."""
    shapes = ((128,) * 4, mixed(512, 8))
    for kinds in (("nf4", "nf4 in bf16"), ("fp32", "bf16")):
        yield [
            (bases.bundled(held, torch.get_num_threads()), _cases(shapes, held)) for held in kinds
        ]


def h200_cases(small: bool) -> Iterator[list[tuple[Any, list[Case]]]]:
    """Llama-3-8B's architecture from random weights; 16,384 tokens a step."""
    shapes = ((32,) * 4, mixed(128, 8)) if small else ((2048,) * 8, mixed(16384, 64))
    for held in ("nf4 in bf16", "bf16"):
        model = bases.random_llama(small=small)
        if held != "bf16":
            bases.quantise(model)
        yield [(model, _cases(shapes, held))]


def main() -> None:
    """Run a preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, help="by default 15 on a CPU and 2 on a GPU")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    args = parser.parse_args()
    args.rounds = args.rounds or (15 if args.preset == "cpu" else 2)
    torch.set_num_threads(args.threads)
    table: list[Row] = []
    for models in cpu_cases() if args.preset == "cpu" else h200_cases(args.small):
        chosen = [(m, [case for case in cases if args.only in case.name]) for m, cases in models]
        table += compare(chosen, args)
    report("train_one", args.preset, table)


def _cases(shapes: tuple[tuple[int, ...], ...], held: str) -> list[Case]:
    caches = (False, True) if held.startswith("nf4") else (False,)
    return [
        Case(lengths, held, held.endswith("bf16"), cache) for lengths in shapes for cache in caches
    ]


if __name__ == "__main__":
    main()
