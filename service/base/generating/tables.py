"""Sequences' block tables in one tensor, each written to only where it has grown."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from service.base.generating.schedule import Chunk


class Tables:
    """Room for `most` sequences of `columns` blocks."""

    def __init__(self, most: int, columns: int) -> None:
        self.columns = columns
        self._held = torch.zeros((most, columns), dtype=torch.int64)
        self._free = list(range(most))
        self._lines: dict[int, tuple[int, list[int], int]] = {}

    def of(self, chunks: Sequence[Chunk]) -> Tensor:
        """Give the chunks' tables, `[n, blocks]`; what is not theirs is 0."""
        lines = [self._line(chunk) for chunk in chunks]
        longest = max((len(chunk.blocks) for chunk in chunks), default=0)
        return self._held[lines, :longest]

    def drop(self, keys: Collection[int]) -> None:
        """Forget sequences."""
        for key in keys:
            if key in self._lines:
                line, _, written = self._lines.pop(key)
                self._held[line, :written] = 0
                self._free.append(line)

    def _line(self, chunk: Chunk) -> int:
        line, blocks, written = self._lines.get(chunk.key, (-1, [], 0))
        if blocks is not chunk.blocks:
            # New, or sent back meanwhile and here again with others.
            self.drop([chunk.key])
            line, written = self._free.pop(), 0
        if written < len(chunk.blocks):
            self._held[line, written : len(chunk.blocks)] = torch.tensor(chunk.blocks[written:])
            self._lines[chunk.key] = (line, chunk.blocks, len(chunk.blocks))
        return line
