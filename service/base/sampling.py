"""Picking the next token of many rows at once, each with its own temperature and chance."""

from collections.abc import Sequence

import torch
from torch import Tensor

_COLDEST = 1e-4
"""Dividing logits by less overflows; the likeliest token has all the probability long before."""


def pick(
    logits: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], chances: Sequence[float]
) -> list[int]:
    """Pick a token for each row of `logits` [rows, vocabulary].

    Temperature 0 takes the likeliest; else the token at which the cumulative probability, cut at
    `top_p`, passes the row's chance in [0, 1). A row's pick depends on nothing but that row.
    """
    picked: list[int] = logits.argmax(-1).tolist()
    for draw, wanted in ((_draw, False), (_draw_nucleus, True)):
        rows = [r for r, t in enumerate(temperatures) if t > 0 and (top_ps[r] < 1) == wanted]
        if not rows:
            continue
        heat = _column([max(temperatures[r], _COLDEST) for r in rows], logits)
        # In double: a chance close to a boundary falls on the same side whoever else is there.
        probabilities = (logits[rows].double() / heat).softmax(-1)
        chance = _column([chances[r] for r in rows], logits)
        drawn = draw(probabilities, chance, _column([top_ps[r] for r in rows], logits))
        for row, token in zip(rows, drawn.squeeze(-1).tolist(), strict=True):
            picked[row] = token
    return picked


def ranked_logprobs(
    logits: Tensor, chosen: Sequence[int], tops: Sequence[int | None]
) -> list[tuple[float, list[tuple[int, float]]] | None]:
    """Give each row's log-probability of the chosen token and of its likeliest ones.

    Of the raw distribution, before temperature; None for a row that did not ask.
    """
    found: list[tuple[float, list[tuple[int, float]]] | None] = [None] * len(tops)
    for row, top in enumerate(tops):
        if top is None:
            continue
        logprobs = logits[row].float().log_softmax(-1)
        values, tokens = logprobs.topk(min(top, len(logprobs)))
        ranked = list(zip(tokens.tolist(), values.tolist(), strict=True))
        found[row] = (float(logprobs[chosen[row]]), ranked)
    return found


def _draw(probabilities: Tensor, chance: Tensor, _: Tensor) -> Tensor:
    reached = probabilities.cumsum(-1)
    # `right`: a chance of 0 must not fall on a token of probability 0.
    place = torch.searchsorted(reached, chance * reached[:, -1:], right=True)
    return place.clamp(max=probabilities.shape[-1] - 1)


def _draw_nucleus(probabilities: Tensor, chance: Tensor, top_p: Tensor) -> Tensor:
    ranked, tokens = probabilities.sort(stable=True, descending=True)
    kept = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0.0)
    place = _draw(kept, chance, top_p)
    last = kept.count_nonzero(-1).unsqueeze(-1) - 1
    return tokens.gather(-1, place.minimum(last))


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(-1)
