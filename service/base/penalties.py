"""What changes a row's logits before any temperature: bias, penalties, tokens too early to end."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, repeat

import torch
from torch import Tensor

from service.base.rows import Row


def adjusted(logits: Tensor, rows: Sequence[Row], generated: Sequence[Sequence[int]]) -> Tensor:
    """Change the logits [rows, vocabulary] as each row asks; the given ones are left alone.

    In vLLM's order: tokens that may not end the row yet, bias; then the repetition penalty
    (Keskar et al. 2019, https://arxiv.org/abs/1909.05858, over prompt and generated tokens), the
    frequency and the presence penalty (OpenAI's, over generated tokens).
    """
    if not any(row.adjusts for row in rows):
        return logits
    biased = _biased(logits.float(), rows, generated)
    places = [place for place, row in enumerate(rows) if row.penalises]
    if not places:
        return biased
    index = to_device(torch.tensor(places), logits.device)
    ours, said = [rows[place] for place in places], [generated[place] for place in places]
    return biased.index_copy(0, index, _penalised(biased[index], ours, said))


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Send a small tensor, without waiting for what the device has yet to do."""
    return host.to(device, non_blocking=True)


def _biased(logits: Tensor, rows: Sequence[Row], generated: Sequence[Sequence[int]]) -> Tensor:
    entries = [
        (place, token, bias)
        for place, row in enumerate(rows)
        for token, bias in chain(row.logit_bias.items(), _too_early(row, generated[place]))
    ]
    if not entries:
        return logits
    places, tokens, biases = zip(*entries, strict=True)
    row, token = to_device(torch.tensor([places, tokens]), logits.device)
    by = to_device(torch.tensor(biases, dtype=logits.dtype), logits.device)
    return logits.index_put((row, token), by, accumulate=True)


def _too_early(row: Row, generated: Sequence[int]) -> Iterable[tuple[int, float]]:
    if len(generated) >= row.min_tokens or (row.structure is not None and row.structure.over):
        return ()
    return zip(row.ends, repeat(-torch.inf))


def _penalised(logits: Tensor, rows: Sequence[Row], generated: Sequence[Sequence[int]]) -> Tensor:
    said = _counts(generated, logits)
    seen = said + _counts([row.prompt for row in rows], logits) > 0
    wishes = [(r.repetition_penalty, r.frequency_penalty, r.presence_penalty) for r in rows]
    host = torch.tensor(wishes, dtype=logits.dtype)
    repetition, frequency, presence = to_device(host, logits.device).unsqueeze(-1).unbind(1)
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen, repeated, logits)
    return logits - frequency * said - presence * (said > 0)


def _counts(sequences: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """Count each row's tokens: [rows, vocabulary]."""
    rows = torch.arange(len(sequences)).repeat_interleave(torch.tensor(list(map(len, sequences))))
    # An array's numbers are taken over at once, those of a list one by one.
    flat = array("q", chain.from_iterable(sequences))
    tokens = torch.frombuffer(flat, dtype=torch.long) if flat else rows
    row, token = to_device(torch.stack([rows, tokens]), like.device)
    one = torch.ones((), dtype=like.dtype, device=like.device)
    return torch.zeros_like(like).index_put_((row, token), one, accumulate=True)
