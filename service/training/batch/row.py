"""One packed row: the pieces of many tasks, through the base and back in one pass."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from service.base.segmented.layout import Part, loss_rows
from service.training.batch.examples import Encoded, Piece, Sums
from service.training.batch.resident import Resident


def learn(resident: Resident, pieces: Mapping[int, Piece]) -> dict[int, Sums]:
    """Add each piece's gradient to that of its slot, and give its sums."""
    return _go(resident, pieces, backward=True)


def measure(resident: Resident, pieces: Mapping[int, Piece]) -> dict[int, Sums]:
    """Give each piece's sums."""
    with torch.no_grad():
        return _go(resident, pieces, backward=False)


def score(
    resident: Resident, slot: int | None, sequences: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Give the log-probabilities of each sequence's tokens from the second on; None is the base."""
    lengths = [len(each) for each in sequences]
    flat = [token for each in sequences for token in each]
    rows, targets = loss_rows(lengths, flat, [1] * len(flat))
    base, batch = resident.base, resident.batch([Part(slot, tuple(lengths))])
    with torch.no_grad(), base.running(batch):
        hidden = base.hidden(batch, torch.tensor(flat, device=base.device))
        found = iter(base.logprobs(hidden, rows, targets))
    return [list(islice(found, length - 1)) for length in lengths]


def _go(resident: Resident, pieces: Mapping[int, Piece], *, backward: bool) -> dict[int, Sums]:
    slots = sorted(pieces)
    examples = [one for slot in slots for one in pieces[slot].examples]
    base, batch = resident.base, resident.batch(_part(slot, pieces[slot]) for slot in slots)
    device = base.device
    learned = torch.tensor([_learned(pieces[slot]) for slot in slots])
    rows = torch.cat([one.predicting + start for start, one in _starts(examples)]).to(device)
    targets = torch.cat([one.targets for one in examples]).to(device)
    ids = torch.cat([one.ids for one in examples]).to(device)
    shares = torch.tensor([pieces[slot].share for slot in slots], dtype=torch.float64)
    resident.pause()
    with base.running(batch):
        hidden = base.hidden(batch, ids)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        weights = shares.repeat_interleave(learned).to(device, exact)
        losses = base.loss(hidden, rows, targets, weights)
        if backward:
            losses.total.backward()
    owners = torch.arange(len(slots)).repeat_interleave(learned).to(device)
    nll, correct = _summed(losses.nll, owners, slots), _summed(losses.correct, owners, slots)
    return {slot: Sums(n, c) for slot, n, c in zip(slots, nll, correct, strict=True)}


def _part(slot: int, piece: Piece) -> Part:
    return Part(slot, tuple(one.length for one in piece.examples), piece.dropout_seeds)


def _learned(piece: Piece) -> int:
    return sum(len(one.targets) for one in piece.examples)


def _starts(examples: list[Encoded]) -> list[tuple[int, Encoded]]:
    placed, start = [], 0
    for one in examples:
        placed.append((start, one))
        start += one.length
    return placed


def _summed(values: Tensor, owners: Tensor, slots: list[int]) -> Any:
    sums = torch.zeros(len(slots), dtype=torch.float64, device=values.device)
    return sums.index_add_(0, owners, values.double()).tolist()
