"""Picking the next token of many rows at once, each by its own wishes and its own chance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.base.penalties import adjusted, to_device
from service.base.rows import Pick, Row

_COLDEST = 1e-4
"""Dividing logits by less overflows; the likeliest token has all the probability long before."""
_RANKED = 20
"""Likeliest tokens of whoever asks for fewer too: how ties fall must not depend on who asks."""


def pick(logits: Tensor, rows: Sequence[Row], generated: Sequence[Sequence[int]]) -> list[Pick]:
    """Pick a token for each row of `logits` [rows, vocabulary], after its `generated` ones.

    In the order that vLLM documents (`vllm.v1.sample.sampler.Sampler`): bias and penalties
    (`adjusted`), then at temperature 0 the likeliest token, else temperature, min_p, top_k and
    top_p, and the token at which the cumulative probability of what is left passes the row's
    chance. Log-probabilities are of the raw distribution, before all that. A row's pick depends on
    nothing but that row.
    """
    wished = adjusted(logits, rows, generated)
    tokens = wished.argmax(-1)
    for draw, filters in ((_draw, False), (_draw_filtered, True)):
        places = [
            at for at, row in enumerate(rows) if row.temperature > 0 and _filters(row) == filters
        ]
        if places:
            index = to_device(torch.tensor(places), logits.device)
            tokens[index] = draw(wished[index], [rows[place] for place in places])
    told = _logprobs(logits, rows, tokens)
    return [
        Pick(row.key, token, *told.get(place, (None, [])))
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True))
    ]


def ranked_shares(logits: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Rank each row's tokens, and give what temperature, min_p, top_k and top_p leave of them.

    Every filter keeps the beginning of the ranking, tokens as likely as the last one of top_k
    included. The shares are 0 for what is left out, and are not made to add up to 1.
    """
    heat, min_p, top_p, top_k = _columns(
        [(_heat(row), row.min_p, row.top_p, _top_k(row, logits.shape[-1])) for row in rows], logits
    )
    ranked, tokens = logits.sort(dim=-1, descending=True, stable=True)
    shares = (ranked.double() / heat).softmax(-1)
    few = (shares < min_p * shares[:, :1]) | (ranked < ranked.gather(-1, top_k.long() - 1))
    shares = shares.masked_fill(few, 0.0)
    reached = shares.cumsum(-1)
    rest = (reached - shares >= top_p * reached[:, -1:]) & (top_p < 1)
    return tokens, shares.masked_fill(rest, 0.0)


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    (heat,) = _columns([(_heat(row),) for row in rows], logits)
    # In double: a chance close to a boundary falls on the same side whoever else is there.
    return _fall((logits.double() / heat).softmax(-1), rows).squeeze(-1)


def _draw_filtered(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    tokens, shares = ranked_shares(logits, rows)
    return tokens.gather(-1, _fall(shares, rows)).squeeze(-1)


def _fall(shares: Tensor, rows: Sequence[Row]) -> Tensor:
    """Find where each row's chance falls: never on a share of 0."""
    (chance,) = _columns([(row.chance(),) for row in rows], shares)
    reached = shares.cumsum(-1)
    whole = reached[:, -1:]
    below = torch.nextafter(whole, torch.zeros_like(whole))
    return torch.searchsorted(reached, torch.minimum(chance * whole, below), right=True)


def _logprobs(
    logits: Tensor, rows: Sequence[Row], tokens: Tensor
) -> dict[int, tuple[float, list[tuple[int, float]]]]:
    """Give, of each row that asked, the chosen token's and the likeliest ones' log-probability."""
    asked = {place: row.logprobs for place, row in enumerate(rows) if row.logprobs is not None}
    if not asked:
        return {}
    index = to_device(torch.tensor(list(asked)), logits.device)
    logprobs = logits[index].float().log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[index].unsqueeze(-1)).squeeze(-1)
    values, ranked = logprobs.topk(min(max(_RANKED, *asked.values()), logits.shape[-1]))
    lists = zip(chosen.tolist(), ranked.tolist(), values.tolist(), strict=True)
    return {
        place: (logprob, list(zip(likeliest[:top], theirs[:top], strict=True)))
        for (place, top), (logprob, likeliest, theirs) in zip(asked.items(), lists, strict=True)
    }


def _filters(row: Row) -> bool:
    return row.top_p < 1 or row.top_k > 0 or row.min_p > 0


def _heat(row: Row) -> float:
    return max(row.temperature, _COLDEST)


def _top_k(row: Row, vocabulary: int) -> int:
    return min(row.top_k, vocabulary) if row.top_k > 0 else vocabulary


def _columns(values: Sequence[tuple[float, ...]], like: Tensor) -> tuple[Tensor, ...]:
    """Bring numbers of each row over in one piece: a tensor [rows, 1] for each number."""
    host = torch.tensor(values, dtype=torch.float64)
    return to_device(host, like.device).unsqueeze(-1).unbind(1)
