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
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional

from bench import bases
from bench.measure import Row, Timed, forget, peak_gib, report, rounds
from service.base.segmented.base import SegmentedBase
from service.base.segmented.layout import Part, loss_rows
from service.base.segmented.optimizer import AdamW, SlotAdamW
from service.training.spec import LoraSpec

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
STEP = AdamW(lr=1e-4, clip=1.0)


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


class Ours:
    """All tenants in one packed row."""

    def __init__(self, model: Any, case: Case, ids: Sequence[Tensor]) -> None:
        self._case = case
        self._base = SegmentedBase(model, targets=case.targets, cache_weights=case.cache)
        self._pool = self._base.slots(capacity=case.tenants, rank=16)
        lora = LoraSpec(dropout=case.dropout, target_modules=case.targets)
        self._slots = [self._pool.allocate(lora, seed) for seed in range(case.tenants)]
        self._optimizer = SlotAdamW(self._pool)
        self._ids = torch.cat([part.flatten() for part in ids])
        self._host = self._ids.tolist()
        self._steps = 0

    def round(self) -> Tensor:
        """One step for every tenant; gives the tokens' losses."""
        self._steps += 1
        parts = [
            Part(slot, self._case.lengths(slot), self._steps * 1000 + slot) for slot in self._slots
        ]
        batch = self._base.batch(self._pool, parts)
        rows, targets, weights = self._targets(parts)
        with self._base.running(batch):
            hidden = self._base.hidden(batch, self._ids)
            losses = self._base.loss(hidden, rows, targets, weights)
            losses.total.backward()
        self._optimizer.step(dict.fromkeys(self._slots, STEP))
        return losses.nll

    def close(self) -> None:
        """Give the model back."""
        self._base.remove()

    def _targets(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, Tensor]:
        device = self._ids.device
        lengths = [length for part in parts for length in part.lengths]
        rows, targets = loss_rows(lengths, self._host, [1] * len(self._host))
        learnt = [part.tokens - len(part.lengths) for part in parts]
        weights = [1 / count for count in learnt for _ in range(count)]
        return (
            torch.tensor(rows, device=device),
            torch.tensor(targets, device=device),
            torch.tensor(weights, device=device),
        )


class Peft:
    """One tenant after another: the base, the adapters and their optimizers stay resident."""

    def __init__(self, model: Any, case: Case, ids: Sequence[Tensor], switching: bool) -> None:
        self._ids = ids
        self._switching = switching
        config = LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=case.dropout,
            target_modules=list(case.targets),
            task_type="CAUSAL_LM",
        )
        self._model = get_peft_model(model, config, adapter_name="t0")
        for tenant in range(1, len(ids)):
            self._model.add_adapter(f"t{tenant}", config)
        self._model.train()
        self._optimizers = [self._optimizer(f"t{tenant}") for tenant in range(len(ids))]
        self._model.set_adapter("t0")

    def round(self) -> list[Tensor]:
        """One step for every tenant; gives their mean losses."""
        return [self._step(tenant) for tenant in range(len(self._ids))]

    def close(self) -> None:
        """Give the model back."""
        self._model.unload()

    def _optimizer(self, name: str) -> torch.optim.AdamW:
        self._model.set_adapter(name)
        chosen = [p for p in self._model.parameters() if p.requires_grad]
        return torch.optim.AdamW(chosen, lr=STEP.lr, fused=chosen[0].is_cuda)

    def _step(self, tenant: int) -> Tensor:
        if self._switching:
            self._model.set_adapter(f"t{tenant}")
        optimizer = self._optimizers[tenant if self._switching else 0]
        ids = self._ids[tenant]
        logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], STEP.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()


def compare(model: Any, case: Case, peers: dict[str, list[Timed]], args: Any) -> list[Row]:
    """Time both sides of a case, the peer's once for all cases that are the same to it."""
    forget()
    device = model.device
    random = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    ids = [
        torch.randint(3, vocabulary, (case.rows, case.lengths(tenant)[0]), generator=random)
        for tenant in range(case.tenants)
    ]
    ids = [one.to(device) for one in ids]
    tokens = sum(one.numel() for one in ids)
    ours = Ours(model, case, ids)
    mean = float(ours.round()[: ids[0].numel() - case.rows].mean())
    timed = rounds(ours.round, warm_up=1, count=args.rounds)
    ours.close()
    print(f"{case.name}: {tokens / timed.median:,.0f} tok/s, {peak_gib():.1f} GiB", flush=True)
    del ours
    some = ids[:: max(1, case.tenants // args.peer_tenants)]
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
    peer = Peft(model, case, ids, switching)
    first = float(peer.round()[0])
    if abs(first - mean) > 0.01 * mean:
        raise RuntimeError(f"the sides do not train on the same loss: {mean} and {first}")
    timed = rounds(peer.round, warm_up=0, count=args.peer_rounds)
    peer.close()
    return timed


def cpu_cases() -> Iterator[tuple[Any, list[Case]]]:
    """The bundled base."""
    for held in ("nf4", "none"):
        model = bases.bundled(held, torch.get_num_threads())
        name = "nf4" if held == "nf4" else "fp32"
        cases = [
            Case(32, 1, 32, name),
            Case(8, 1, 128, name),
            Case(32, 1, 32, name, ATTENTION),
            Case(8, 1, 128, name, ATTENTION),
        ]
        if held == "nf4":
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
    tiny = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    tiny |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = bases.random_llama("cpu" if small else "cuda", **(tiny if small else {}))
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
