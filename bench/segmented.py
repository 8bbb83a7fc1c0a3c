"""Our side of training: any number of tenants' examples in one packed row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.workload import ALPHA, CLIP, LEARNING_RATE, RANK
from service.base.segmented.base import SegmentedBase
from service.base.segmented.layout import Part, loss_rows
from service.base.segmented.optimizer import AdamW, SlotAdamW
from service.training.spec import LoraSpec

STEP = AdamW(lr=LEARNING_RATE, clip=CLIP)


class Segmented:
    """One adapter for each tenant, all of whose examples make one optimizer step."""

    def __init__(
        self,
        model: Any,
        tenants: Sequence[Sequence[Tensor]],
        *,
        targets: tuple[str, ...],
        dropout: float = 0.0,
        cache: bool = False,
    ) -> None:
        self._base = SegmentedBase(model, targets=targets, cache_weights=cache)
        self._pool = self._base.slots(capacity=len(tenants), rank=RANK)
        lora = LoraSpec(rank=RANK, alpha=ALPHA, dropout=dropout, target_modules=targets)
        self._slots = [self._pool.allocate(lora, seed) for seed in range(len(tenants))]
        self._optimizer = SlotAdamW(self._pool)
        self._lengths = [tuple(len(example) for example in tenant) for tenant in tenants]
        self._ids = torch.cat([example for tenant in tenants for example in tenant])
        self._host = self._ids.tolist()
        self._steps = 0

    def round(self) -> Tensor:
        """One step for every tenant; gives the tokens' losses."""
        self._steps += 1
        parts = [
            Part(slot, lengths, self._steps * 1000 + slot)
            for slot, lengths in zip(self._slots, self._lengths, strict=True)
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
