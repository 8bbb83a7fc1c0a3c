"""Prompts taken into the cache together, a slice of columns at a time."""

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from service.base.kv_rows import KvRows
from service.base.rows import Row


class Forward(Protocol):
    """One forward pass of a mixed batch; it appends to the cache it is given."""

    def __call__(
        self,
        adapters: Sequence[str | None],
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
    ) -> Tensor:
        """Return the logits [rows, vocabulary] of each row's last column."""
        ...


class Prefill:
    """A left-padded batch of distinct prompts; rows of the same prompt share one line of it."""

    def __init__(self, rows: list[Row], device: torch.device) -> None:
        self.rows = rows
        self._lines = list({row.prompt_id: row for row in rows}.values())
        self._line_of = {line.prompt_id: at for at, line in enumerate(self._lines)}
        width = max(len(line.prompt) for line in self._lines)
        pads = [width - len(line.prompt) for line in self._lines]
        ids = [[0] * n + line.prompt for n, line in zip(pads, self._lines, strict=True)]
        self._ids = torch.tensor(ids, device=device)
        self._mask = torch.tensor([[0] * n + [1] * (width - n) for n in pads], device=device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._kv = KvRows.empty(device)
        self._done = 0

    def drop(self, keys: Collection[int]) -> bool:
        """Forget rows; False when none is left."""
        self.rows = [row for row in self.rows if row.key not in keys]
        return bool(self.rows)

    def advance(self, forward: Forward, tokens: int) -> tuple[KvRows, Tensor] | None:
        """Take in about that many tokens.

        Once all are in, gives the cache and the next-token logits, one line for each of `rows`.
        """
        start, width = self._done, self._ids.shape[1]
        self._done = end = min(width, start + max(1, tokens // len(self._lines)))
        logits = forward(
            [line.adapter for line in self._lines],
            input_ids=self._ids[:, start:end],
            attention_mask=self._mask[:, :end],
            position_ids=self._positions[:, start:end],
            past_key_values=self._kv.cache,
        )
        if end < width:
            return None
        self._kv.mask = self._mask
        lines = [self._line_of[row.prompt_id] for row in self.rows]
        return self._kv.select(lines), logits[torch.tensor(lines, device=logits.device)]


def choose(arrived: deque[Row], tokens: int) -> list[Row]:
    """Take from the queue what is prefilled together: the first row and those that suit it.

    Rows of like length only, as the short ones are padded to the longest; in all about `tokens`.
    """
    first = len(arrived[0].prompt)
    chosen: list[Row] = []
    left: deque[Row] = deque()
    prompts: set[int] = set()
    width = 0
    while arrived:
        row = arrived.popleft()
        wider = max(width, len(row.prompt))
        alike = first <= 2 * len(row.prompt) and len(row.prompt) <= 2 * first
        fits = alike and wider * len(prompts | {row.prompt_id}) <= max(tokens, wider)
        if fits:
            chosen.append(row)
            prompts.add(row.prompt_id)
            width = wider
        else:
            left.append(row)
    arrived.extend(left)
    return chosen
