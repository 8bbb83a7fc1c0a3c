"""The fake engine's model: a token is a word, and of each place's words each is half as likely."""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from service.serving.engine import GenerationRequest, Sampling, TokenLogprob

WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india")
END = "<end>"
LENGTH = 8
VOCABULARY = 1 << 16


def default_answer(request: GenerationRequest, index: int) -> str:
    """Say who answers, then words that depend on revision, prompt and (sampling) the seed."""
    who = request.revision.adapter if request.revision else "base"
    sampling = request.sampling
    greedy = sampling.temperature == 0 or sampling.top_k == 1 or sampling.min_p == 1
    chance = () if greedy else (sampling.seed, index)
    digest = hashlib.sha256(repr((request.revision, request.prompt, chance)).encode()).digest()
    return " ".join([who, *random.Random(digest).choices(WORDS, k=LENGTH - 1)])


def script(text: str) -> Iterator[str]:
    """Give each place's likeliest word: those of the text, the end, and so again without end."""
    words = re.findall(r"\s*\S+|\s+$", text)
    yield from [*words, END]
    while True:
        yield from [*(f" {word.strip()}" for word in words), END]


def choose(likeliest: str, request: GenerationRequest, said: Sequence[int]) -> str:
    """Take the word that is likeliest after bias and penalties."""
    sampling = request.sampling
    barred = ends(sampling) if len(said) < sampling.min_tokens else set()
    counts, by = Counter(said), sampling.repetition_penalty
    seen = {*said, *request.prompt}

    def score(ranked: tuple[int, str]) -> float:
        place, token = ranked[0], token_id(ranked[1])
        if token in barred:
            return -math.inf
        logit = _chance(place) + sampling.logit_bias.get(token, 0.0)
        if token in seen:
            logit *= by if logit < 0 else 1 / by
        count = counts[token]
        return logit - sampling.frequency_penalty * count - sampling.presence_penalty * (count > 0)

    return max(enumerate(_ranking(likeliest)), key=score)[1]


def ends(sampling: Sampling) -> set[int]:
    """Tell which tokens end an answer."""
    return {*sampling.stop_token_ids} | (set() if sampling.ignore_eos else {token_id(END)})


def token_id(word: str) -> int:
    """Number a word."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big")


def logprobs_of(likeliest: str, word: str, top: int | None) -> list[TokenLogprob] | None:
    """Log-probabilities of the word that was taken, and of the likeliest at its place."""
    if top is None:
        return None
    ranking = _ranking(likeliest)
    best = [_named(other, place, []) for place, other in enumerate(ranking[:top])]
    return [_named(word, ranking.index(word), best)]


def scores_of(weights: bytes, prompt: Sequence[int]) -> list[float]:
    """Log-probabilities of a prompt's tokens, by the weights and all tokens before."""
    model = hashlib.sha256(weights).digest()
    before = [hashlib.sha256(repr(prompt[:at]).encode()).digest() for at in range(1, len(prompt))]
    return [
        -random.Random(model + context + str(token).encode()).expovariate(1)
        for context, token in zip(before, prompt[1:], strict=True)
    ]


def _ranking(likeliest: str) -> list[str]:
    return [likeliest, *(f" {other}" for other in WORDS if other != likeliest.strip())]


def _chance(place: int) -> float:
    return math.log(0.5) * (place + 1)


def _named(word: str, place: int, top: list[TokenLogprob]) -> TokenLogprob:
    return TokenLogprob(token_id(word), word, list(word.encode()), _chance(place), top)
