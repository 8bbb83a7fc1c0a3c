"""Whether an engine answers with the adapter that it is asked for, asked before anybody else asks.

vLLM's builds for CPUs were seen to answer requests for the base with the adapter in the last slot
while others ran beside them. No test of ours can know every build: so each start looks.
"""

import asyncio
from collections.abc import Sequence
from itertools import combinations

import msgspec

from adapters_store import RevisionRef
from service.serving.engine import Engine, GenerationRequest, Piece, Sampling, TokenLogprob

TOKENS = 8
AT_ONCE = 6
"""Adapters in one mixture; the base is in each, three times."""
TOLERANCE = 0.3
"""Nats by which company may change a token's log-probability: 16-bit products are rounded by their
batch. Another adapter changes them by far more, as the check makes sure of first."""


class MixedUp(Exception):
    """An engine that must answer nobody; the message says what it did."""


class Answer(msgspec.Struct, frozen=True):
    """What was said to a prompt, token by token, each with the likeliest at its place."""

    tokens: list[TokenLogprob]

    def agrees(self, other: "Answer") -> bool:
        """Tell whether both may be the same model's, but for rounding."""
        for mine, theirs in zip(self.tokens, other.tokens, strict=True):
            known = {token.token_id: token.logprob for token in (mine, *mine.top)}
            logprob = known.get(theirs.token_id)
            if logprob is None or abs(logprob - theirs.logprob) > TOLERANCE:
                return False
            if mine.token_id != theirs.token_id:
                # As likely as each other; what follows is another text.
                return True
        return True


async def self_check(engine: Engine, refs: Sequence[RevisionRef], prompt: list[int]) -> None:
    """Ask each of `refs` and the base alone and in mixtures. Raises MixedUp.

    There is one revision more than the engine has places, and all change its answers: so every
    place is filled, and one of them twice.
    """
    alone = {ref: await _ask(engine, ref, prompt) for ref in (None, *refs)}
    for (one, first), (other, second) in combinations(alone.items(), 2):
        if first.agrees(second):
            raise MixedUp(f"{_named(one)} and {_named(other)} give the same answer")
    for begin in range(0, len(refs), AT_ONCE):
        group = refs[begin : begin + AT_ONCE]
        mixture = [None, *group, None, *reversed(group), None]
        answers = await asyncio.gather(*(_ask(engine, ref, prompt) for ref in mixture))
        for ref, answer in zip(mixture, answers, strict=True):
            if not alone[ref].agrees(answer):
                raise MixedUp(_told(ref, answer, alone))


def _told(ref: RevisionRef | None, answer: Answer, alone: dict[RevisionRef | None, Answer]) -> str:
    others = [_named(other) for other, its in alone.items() if other != ref and its.agrees(answer)]
    by = " or ".join(others) or "nothing that it gives alone"
    return f"in company, {_named(ref)} was answered by {by}"


def _named(ref: RevisionRef | None) -> str:
    return "the base" if ref is None else f"{ref.tenant}/{ref.adapter}"


async def _ask(engine: Engine, ref: RevisionRef | None, prompt: list[int]) -> Answer:
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, logprobs=2)
    request = GenerationRequest(id="self-check", revision=ref, prompt=prompt, sampling=sampling)
    pieces: list[Piece] = [piece async for piece in engine.generate(request)]
    return Answer([token for piece in pieces for token in piece.logprobs or []])
