"""One running batch on one resident base: rows with different adapters join and leave at any step.

Not thread-safe: PEFT's mixed batch keeps its adapter names in hooks on the shared layers.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable

import torch

from service.base.kv_rows import KvRows
from service.base.prefill import Forward, Prefill, choose
from service.base.rows import Pick, Round, Row
from service.base.sampling import pick

PREFILL_TOKENS = 512
"""Prompt tokens, padding included, that one round takes in, so that running rows go on."""


class DecodingBatch:
    """Runs `round` after `round`; in each, every running row gets one token more."""

    def __init__(
        self, forward: Forward, device: torch.device, prefill_tokens: int = PREFILL_TOKENS
    ) -> None:
        self._forward = forward
        self._device = device
        self._prefill_tokens = prefill_tokens
        self._arrived: deque[Row] = deque()
        self._prefill: Prefill | None = None
        self._rows: list[Row] = []
        self._generated: list[list[int]] = []
        self._kv = KvRows.empty(device)

    @property
    def busy(self) -> bool:
        """Whether a round would do anything."""
        return bool(self._rows or self._arrived or self._prefill)

    def add(self, rows: Iterable[Row]) -> None:
        """Let rows in; the next rounds take in their prompts."""
        self._arrived.extend(rows)

    def drop(self, keys: Collection[int]) -> None:
        """Let rows go, wherever they are."""
        self._arrived = deque(row for row in self._arrived if row.key not in keys)
        if self._prefill is not None and not self._prefill.drop(keys):
            self._prefill = None
        stay = [at for at, row in enumerate(self._rows) if row.key not in keys]
        if len(stay) < len(self._rows):
            self._rows = [self._rows[at] for at in stay]
            self._generated = [self._generated[at] for at in stay]
            self._kv = self._kv.select(stay)

    def round(self) -> Round:
        """Give every running row its next token, and take in some of the waiting prompts.

        Never raises: the rows of a forward pass that failed are lost, the others are not.
        """
        result = Round([], [], [])
        with torch.inference_mode():
            if self._rows:
                self._guarded(self._step, self._rows, result)
            if self._prefill is None and self._arrived:
                chosen = choose(self._arrived, self._prefill_tokens)
                self._prefill = Prefill(chosen, self._device)
            if self._prefill is not None:
                self._guarded(self._take_in, self._prefill.rows, result)
        return result

    def _guarded(self, part: Callable[[], list[Pick]], rows: list[Row], result: Round) -> None:
        keys = [row.key for row in rows]
        try:
            result.picks += part()
        except Exception as fault:  # noqa: BLE001 - whatever it was, the other rows must go on
            # The pass may have reached some layers' caches and not others: nothing of it is kept.
            self.drop(keys)
            result.lost += keys
            result.faults.append(fault)

    def _step(self) -> list[Pick]:
        positions = self._kv.lengths.unsqueeze(-1)
        self._kv.grow()
        logits = self._forward(
            [row.adapter for row in self._rows],
            input_ids=torch.tensor([made[-1:] for made in self._generated], device=self._device),
            attention_mask=self._kv.mask,
            position_ids=positions,
            past_key_values=self._kv.cache,
        )
        picks = pick(logits, self._rows, self._generated)
        for made, picked in zip(self._generated, picks, strict=True):
            made.append(picked.token)
        return picks

    def _take_in(self) -> list[Pick]:
        assert self._prefill is not None
        whole = self._prefill.advance(self._forward, self._prefill_tokens)
        if whole is None:
            return []
        kv, logits = whole
        picks = pick(logits, self._prefill.rows, [[] for _ in self._prefill.rows])
        self._kv = self._kv.join(kv)
        self._rows = self._rows + self._prefill.rows
        self._generated += [[picked.token] for picked in picks]
        self._prefill = None
        return picks
