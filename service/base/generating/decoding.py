"""One running batch on one resident base: rows with different adapters join and leave at any step.

Not thread-safe: the layers find the batch in hand in one place.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from service.base.generating.blocks import Blocks, root
from service.base.generating.schedule import CHUNK_TOKENS, Chunk, Schedule
from service.base.rows import KvUse, Pick, Round, Row, Score
from service.base.sampling import pick


class Model(Protocol):
    """What computes; `GenerationModel` does."""

    blocks: Blocks
    most: int
    beside: int

    def clear(self, blocks: Sequence[int]) -> None: ...
    def drop(self, keys: Collection[int]) -> None: ...
    def forward(self, adapters: Sequence[str | None], chunks: Sequence[Chunk]) -> Tensor: ...
    def score(
        self,
        adapters: Sequence[str | None],
        chunks: Sequence[Chunk],
        following: Sequence[Sequence[int]],
    ) -> list[list[float]]: ...


class NoRoom(Exception):
    """A row has grown beyond the whole cache."""


class DecodingBatch:
    """Runs `round` after `round`; in each, rows whose prompt is in get one token more."""

    def __init__(self, model: Model, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self._model = model
        self._schedule = Schedule(model.blocks, model.most, chunk_tokens, model.beside)
        self._rows: dict[int, Row] = {}
        self._generated: dict[int, list[int]] = {}
        self._scores: dict[int, list[float]] = {}

    @property
    def busy(self) -> bool:
        """Whether a round would do anything."""
        return self._schedule.busy

    @property
    def use(self) -> KvUse:
        """How the cache fares."""
        blocks = self._model.blocks
        return KvUse(blocks.used, blocks.count, self._schedule.preemptions, self._schedule.reused)

    def add(self, rows: Iterable[Row]) -> None:
        """Let rows in; the next rounds take in their prompts."""
        for row in rows:
            self._rows[row.key] = row
            self._generated[row.key], self._scores[row.key] = [], []
            self._schedule.add(
                row.key,
                root(row.salt, row.adapter),
                row.prompt,
                # What is found in the cache is not computed, and has no scores.
                shared=not row.scored,
                ahead=row.ahead,
            )

    def drop(self, keys: Collection[int]) -> None:
        """Let rows go, wherever they are."""
        self._schedule.drop(keys)
        self._model.drop(keys)
        for key in keys:
            self._rows.pop(key, None)
            self._generated.pop(key, None)
            self._scores.pop(key, None)

    def round(self) -> Round:
        """Run one forward pass: the next token of each running row, chunks of prompts, or both.

        Rows that are to be scored have a pass of their own.

        Never raises: rows without which the pass would not have failed are not lost.
        """
        result = Round([], [], [])
        step = self._schedule.next()
        if step.lost:
            result.faults.append(NoRoom("the key-value cache is too small for a row"))
            self._lose(step.lost, result)
        with torch.inference_mode():
            try:
                self._model.clear(step.fresh)
            except Exception as fault:  # noqa: BLE001 - what was in them must never be read
                result.faults.append(fault)
                self._lose([chunk.key for chunk in step.chunks], result)
            else:
                scored = {chunk.key for chunk in step.chunks if self._rows[chunk.key].scored}
                self._run([chunk for chunk in step.chunks if chunk.key not in scored], result)
                self._run([chunk for chunk in step.chunks if chunk.key in scored], result)
        return result

    def _run(self, chunks: Sequence[Chunk], result: Round) -> None:
        if not chunks:
            return
        rows = [self._rows[chunk.key] for chunk in chunks]
        try:
            picks = self._score(rows, chunks) if rows[0].scored else self._pick(rows, chunks)
        except Exception as fault:  # noqa: BLE001 - whatever it was, the other rows must go on
            result.faults.append(fault)
            if len(chunks) == 1:
                self._lose([chunks[0].key], result)
                return
            # It writes the same to the same places again. Who is to blame is found by halving.
            middle = len(chunks) // 2
            self._run(chunks[:middle], result)
            self._run(chunks[middle:], result)
            return
        tokens = {one.key: one.token for one in picks}
        for chunk in chunks:
            self._schedule.advance(chunk, tokens.get(chunk.key))
        for key, token in tokens.items():
            self._generated[key].append(token)
        result.picks += picks
        over = [chunk.key for row, chunk in zip(rows, chunks, strict=True) if _is_over(row, chunk)]
        if over:
            result.scores += [Score(key, self._scores[key]) for key in over]
            self.drop(over)

    def _pick(self, rows: Sequence[Row], chunks: Sequence[Chunk]) -> list[Pick]:
        logits = self._model.forward([row.adapter for row in rows], chunks)
        wanted = [row for row, chunk in zip(rows, chunks, strict=True) if chunk.last]
        made = [self._generated[row.key] for row in wanted]
        return pick(logits, wanted, made) if wanted else []

    def _score(self, rows: Sequence[Row], chunks: Sequence[Chunk]) -> list[Pick]:
        following = [
            row.prompt[chunk.start + 1 : chunk.end + 1]
            for row, chunk in zip(rows, chunks, strict=True)
        ]
        found = self._model.score([row.adapter for row in rows], chunks, following)
        for row, chunk, scores in zip(rows, chunks, found, strict=True):
            # What was sent back to wait comes again, from a block's beginning.
            self._scores[row.key][chunk.start :] = scores
        return []

    def _lose(self, keys: Collection[int], result: Round) -> None:
        self.drop(keys)
        result.lost += keys


def _is_over(row: Row, chunk: Chunk) -> bool:
    return row.scored and chunk.last
