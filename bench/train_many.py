"""Many tenants' adapters in one pass, against PEFT one tenant after another on a resident base.

Both sides take the same optimizer steps: one AdamW step with clipping for each tenant and round,
adapters and moments resident. PEFT's side switches with `set_adapter`, as a service must; a second
row leaves that out.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from bench import bases
from bench.measure import Row, Timed, forget, peak_gib, report, rounds
from bench.peft_peer import SerialPeft, lora_config
from bench.segmented import Segmented
from bench.workload import ALL, ATTENTION, check_losses, examples


class Case(msgspec.Struct, frozen=True):
    """A workload: each tenant has `rows` examples of `tokens` tokens in each step."""

    tenants: int
    rows: int
    tokens: int
    quantization: str
    targets: tuple[str, ...] = ALL
    dropout: float = 0.0
    ragged: bool = False
    """Tenants' examples are of 1/2 to 3/2 of `tokens`, and on average that."""
    cache: bool = False

    @property
    def name(self) -> str:
        """What the tables call it."""
        parts = [f"{self.tenants}x{self.rows}x{self.tokens}", self.quantization]
        parts.append("all linears" if self.targets == ALL else "attention")
        parts += [f"dropout {self.dropout}"] if self.dropout else []
        parts += ["ragged"] if self.ragged else []
        return " ".join([*parts, "cached"] if self.cache else parts)

    def lengths(self, tenant: int) -> tuple[int, ...]:
        """Give the tenant's examples."""
        if not self.ragged:
            return (self.tokens,) * self.rows
        share = 0.5 + tenant / max(1, self.tenants - 1)
        return (round(self.tokens * share),) * self.rows


def compare(model: Any, case: Case, peers: dict[str, list[Timed]], args: Any) -> list[Row]:
    """Time both sides of a case, the peer's once for all cases that are the same to it."""
    forget()
    tenants = [examples(model, case.lengths(tenant), tenant) for tenant in range(case.tenants)]
    tokens = sum(len(example) for tenant in tenants for example in tenant)
    ours = Segmented(model, tenants, targets=case.targets, dropout=case.dropout, cache=case.cache)
    mean = float(ours.round()[: sum(case.lengths(0)) - case.rows].mean())
    timed = rounds(ours.round, warm_up=1, count=args.rounds)
    ours.close()
    print(f"{case.name}: {tokens / timed.median:,.0f} tok/s, {peak_gib():.1f} GiB", flush=True)
    del ours
    some = [torch.stack(tenant) for tenant in tenants][:: max(1, case.tenants // args.peer_tenants)]
    share = sum(one.numel() for one in some)
    key = msgspec.structs.replace(case, cache=False).name
    if key not in peers:
        peers[key] = [
            _peer(model, case, some, switching, mean, args) for switching in (True, False)
        ]
    rate = tokens / timed.median
    with_switch, without = (share / peer.median for peer in peers[key])
    print(f"  peer: {with_switch:,.0f}, without set_adapter {without:,.0f} tok/s", flush=True)
    return [
        Row(case.name, rate, with_switch, timed.spread),
        Row(f"{case.name}, peer never switches", rate, without, timed.spread),
    ]


def _peer(
    model: Any, case: Case, ids: Sequence[Tensor], switching: bool, mean: float, args: Any
) -> Timed:
    forget()
    peer = SerialPeft(model, ids, lora_config(case.targets, case.dropout), switching)
    check_losses(mean, float(peer.round()[0]))
    timed = rounds(peer.round, warm_up=0, count=args.peer_rounds)
    peer.close()
    return timed


def cpu_cases() -> Iterator[tuple[Any, list[Case]]]:
    """The bundled base."""
    for name in ("nf4", "fp32"):
        model = bases.bundled(name, torch.get_num_threads())
        cases = [
            Case(32, 1, 32, name),
            Case(8, 1, 128, name),
            Case(32, 1, 32, name, ATTENTION),
            Case(8, 1, 128, name, ATTENTION),
        ]
        if name == "nf4":
            cases += [Case(32, 1, 32, name, cache=True), Case(8, 1, 128, name, cache=True)]
        else:
            cases += [
                Case(32, 1, 32, name, ragged=True),
                Case(8, 1, 128, name, ragged=True),
                Case(32, 1, 32, name, dropout=0.05),
                Case(8, 1, 128, name, dropout=0.05),
            ]
        yield model, cases


def h200_cases(small: bool) -> Iterator[tuple[Any, list[Case]]]:
    """Llama-3-8B's architecture from random weights; `small` tries the code without a GPU."""
    model = bases.random_llama(small=small)
    many, few = ((3, 1, 12), (2, 2, 16)) if small else ((64, 1, 128), (16, 2, 256))
    yield model, [Case(*many, "bf16"), Case(*few, "bf16"), Case(*many, "bf16", ATTENTION)]
    bases.quantise(model)
    cases = [Case(*size, "nf4", cache=cache) for size in (many, few) for cache in (True, False)]
    cases += [Case(*many, "nf4", ATTENTION, cache=True), Case(*few, "nf4", ATTENTION, cache=True)]
    cases += [Case(*many, "nf4", ragged=True, cache=True)]
    cases += [Case(*many, "nf4", dropout=0.05, cache=True)]
    yield model, cases


def main() -> None:
    """Run a preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu", "h200"], required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-rounds", type=int, default=3)
    parser.add_argument("--peer-tenants", type=int, default=64, help="time the peer on so many")
    parser.add_argument("--small", action="store_true", help="try the h200 preset's code on a CPU")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table, peers = [], {}
    for model, cases in cpu_cases() if args.preset == "cpu" else h200_cases(args.small):
        for case in cases:
            if args.only in case.name:
                table += compare(model, case, peers, args)
    report("train_many", args.preset, table)


if __name__ == "__main__":
    main()
