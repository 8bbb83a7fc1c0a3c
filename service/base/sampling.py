"""Picking the next token of many rows at once, each by its own wishes and its own chance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.base.penalties import adjusted, to_device
from service.base.rows import Pick, Row
from service.base.structures import kept

_COLDEST = 1e-4
"""Dividing logits by less overflows; the likeliest token has all the probability long before."""
_CANDIDATES = 256
"""Likeliest tokens that are looked at first: sorting the whole vocabulary is rarely needed."""
_RANKED = 20
"""Likeliest tokens of whoever asks for fewer too: how ties fall must not depend on who asks."""


def pick(logits: Tensor, rows: Sequence[Row], generated: Sequence[Sequence[int]]) -> list[Pick]:
    """Pick a token for each row of `logits` [rows, vocabulary], after its `generated` ones.

    In vLLM's order (`vllm.v1.worker.gpu_model_runner`, then `vllm.v1.sample.sampler.Sampler`):
    what the row's structure leaves (`kept`), bias and penalties (`adjusted`), then at temperature 0
    the likeliest token, else temperature, min_p, top_k and top_p, and the token at which the
    cumulative probability of what is left passes the row's chance. Log-probabilities are of what
    the structure leaves, before all that. A row's pick depends on nothing but that row.
    """
    logits = kept(logits, rows)
    wished = adjusted(logits, rows, generated)
    tokens = wished.argmax(-1)
    for draw, filters in ((_draw, False), (_draw_filtered, True)):
        places = [
            at for at, row in enumerate(rows) if row.temperature > 0 and _filters(row) == filters
        ]
        if places:
            index = to_device(torch.tensor(places), logits.device)
            theirs = [rows[place] for place in places]
            (chance,) = _columns([(row.chance(),) for row in theirs], wished)
            tokens[index] = draw(wished[index], theirs, chance)
    told = _logprobs(logits, rows, tokens)
    return [
        Pick(row.key, token, *told.get(place, (None, [])))
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True))
    ]


def ranked_shares(logits: Tensor, rows: Sequence[Row], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rank `most` likeliest tokens, and give what temperature, min_p, top_k and top_p leave.

    Every filter keeps the beginning of the ranking; tokens as likely as the last one of top_k are
    kept. Gives tokens and shares [rows, most], 0 for what is left out and not adding up to 1, and
    which rows [rows] have nothing left beyond them. For the others the shares are not right.
    """
    vocabulary = logits.shape[-1]
    heat, min_p, top_p, top_k = _columns(
        [(_heat(row), row.min_p, row.top_p, _top_k(row, vocabulary)) for row in rows], logits
    )
    ranked, tokens = _ranked(logits, most)
    best = ranked[:, :1].double()
    shares = ((ranked.double() - best) / heat).exp()
    few = (shares < min_p) | (ranked < ranked.gather(-1, top_k.clamp(max=most).long() - 1))
    shares = shares.masked_fill(few, 0.0)
    cut = few[:, -1:]
    # In single: this many exponentials are most of the work, and only top_p's limit depends on it.
    every = ((logits.float() - best.float()) / heat.float()).exp().sum(-1, True, dtype=heat.dtype)
    whole = torch.where(cut, shares.sum(-1, keepdim=True), every)
    rest = (shares.cumsum(-1) - shares >= top_p * whole) & (top_p < 1)
    # Of tokens as likely as the last one, others may come before it in the whole ranking.
    within = (rest | (ranked > ranked[:, -1:])).all(-1, keepdim=True)
    enough = cut | (within & (min_p == 0) & (top_k == vocabulary)) | (most == vocabulary)
    return tokens, shares.masked_fill(rest, 0.0), enough.squeeze(-1)


def _draw(logits: Tensor, rows: Sequence[Row], chance: Tensor) -> Tensor:
    (heat,) = _columns([(_heat(row),) for row in rows], logits)
    # In double: a chance close to a boundary falls on the same side whoever else is there.
    return _fall((logits.double() / heat).softmax(-1), chance).squeeze(-1)


def _draw_filtered(logits: Tensor, rows: Sequence[Row], chance: Tensor) -> Tensor:
    most = min(_CANDIDATES, logits.shape[-1])
    tokens, shares, enough = ranked_shares(logits, rows, most)
    drawn = tokens.gather(-1, _fall(shares, chance)).squeeze(-1)
    wide = [place for place, fine in enumerate(enough.tolist()) if not fine]
    if wide:
        index = to_device(torch.tensor(wide), logits.device)
        theirs = [rows[place] for place in wide]
        tokens, shares, _ = ranked_shares(logits[index], theirs, logits.shape[-1])
        drawn[index] = tokens.gather(-1, _fall(shares, chance[index])).squeeze(-1)
    return drawn


def _ranked(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Rank the likeliest tokens; of equal ones the lower id is first, however many are wanted."""
    if most == logits.shape[-1]:
        return logits.sort(dim=-1, descending=True, stable=True)
    tokens = logits.topk(most).indices.sort().values
    ranked, order = logits.gather(-1, tokens).sort(dim=-1, descending=True, stable=True)
    return ranked, tokens.gather(-1, order)


def _fall(shares: Tensor, chance: Tensor) -> Tensor:
    """Find where each row's chance falls: never on a share of 0."""
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
