"""Whether an engine answers with the adapter that it is asked for, asked before anybody else asks.

vLLM's builds for CPUs were seen to answer requests for the base with the adapter in the last slot
while others ran beside them. No test of ours can know every build: so each start looks.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import combinations

import msgspec

from adapters_store import RevisionRef
from service.serving.engine import Engine, GenerationRequest, Sampling, TokenLogprob
from service.serving.merging import closing

TOKENS = 8
LONG = 128
"""So many are asked of who keeps company: it is broken off when the others have ended."""
AT_ONCE = 6
"""Adapters in one mixture; the base is in it three times."""
LOAD_SECONDS = 60
TOLERANCE = 0.3
"""Nats by which company may change a token's log-probability: 16-bit products are rounded by their
batch. Another adapter changes them by far more, as the check makes sure of first."""


class MixedUp(Exception):
    """An engine that must answer nobody; the message says what it did."""


class Answer(msgspec.Struct, frozen=True):
    """What was said to a prompt, token by token, each with the likeliest at its place."""

    tokens: list[TokenLogprob]

    def agrees(self, other: "Answer") -> bool:
        """Tell whether both may be the same model's, but for rounding, as far as both go."""
        for mine, theirs in zip(self.tokens, other.tokens, strict=False):
            known = {token.token_id: token.logprob for token in (mine, *mine.top)}
            logprob = known.get(theirs.token_id)
            if logprob is None or abs(logprob - theirs.logprob) > TOLERANCE:
                return False
            if mine.token_id != theirs.token_id:
                # As likely as each other; what follows is another text.
                return True
        return True


async def self_check(engine: Engine, refs: Sequence[RevisionRef], prompt: list[int]) -> None:
    """Ask each of `refs` and the base alone, beside one another, and in a mixture. Raises MixedUp.

    There is one revision more than the engine has places, and all change its answers: so every
    place is filled, and some twice.
    """
    check = _Check(engine, prompt)
    alone = {ref: await check.ask(ref) for ref in (None, *refs)}
    for (one, first), (other, second) in combinations(alone.items(), 2):
        if first.agrees(second):
            raise MixedUp(f"{_named(one)} and {_named(other)} give the same answer")
    for before, ref in zip([refs[-1], *refs], refs, strict=False):
        _compare(alone, await check.beside(ref, [None, before, None]))
    for ref in refs[:2]:
        _compare(alone, [(ref, await check.moved(ref, refs))])
    mixture = [None, *refs[:AT_ONCE], None, *reversed(refs[:AT_ONCE]), None]
    answers = await asyncio.gather(*map(check.ask, mixture))
    _compare(alone, list(zip(mixture, answers, strict=True)))


Told = list[tuple[RevisionRef | None, Answer]]


class _Check:
    def __init__(self, engine: Engine, prompt: list[int]) -> None:
        self._engine = engine
        self._prompt = prompt

    async def ask(self, ref: RevisionRef | None, count: int = TOKENS) -> Answer:
        tokens = [token async for token in self._tokens(ref, count)]
        return Answer(tokens)

    async def moved(self, ref: RevisionRef, refs: Sequence[RevisionRef]) -> Answer:
        """Ask one again that has got another place since, while nobody was answered.

        Of one token each time: the step before is then the same as the step after, and nothing
        may be left of it.
        """
        await self.ask(ref, 1)
        while ref in (residents := (await self._engine.status()).resident):
            await self._load(next(other for other in refs if other not in residents))
        await self._load(ref)
        return await self.ask(ref, 1)

    async def _load(self, ref: RevisionRef) -> None:
        await self._engine.prefetch(ref)
        async with asyncio.timeout(LOAD_SECONDS):
            # A status is asked for, not announced: there is no event to wait on.
            while ref not in (await self._engine.status()).resident:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def beside(self, ref: RevisionRef, others: list[RevisionRef | None]) -> Told:
        """Ask others while one answers, from before their first token to after their last."""
        company = self._tokens(ref, LONG)
        async with aclosing(company):
            its = [await anext(company)]
            answers = await asyncio.gather(*map(self.ask, others))
            while len(its) < TOKENS:
                its.append(await anext(company))
        return [(ref, Answer(its)), *zip(others, answers, strict=True)]

    async def _tokens(
        self, ref: RevisionRef | None, count: int
    ) -> AsyncGenerator[TokenLogprob, None]:
        sampling = Sampling(max_tokens=count, temperature=0.0, ignore_eos=True, logprobs=2)
        request = GenerationRequest(
            id="self-check", revision=ref, prompt=self._prompt, sampling=sampling
        )
        async with closing(self._engine.generate(request)) as pieces:
            async for piece in pieces:
                for token in piece.logprobs or []:
                    yield token


def _compare(alone: dict[RevisionRef | None, Answer], told: Told) -> None:
    for ref, answer in told:
        if not alone[ref].agrees(answer):
            raise MixedUp(_blamed(ref, answer, alone))


def _blamed(
    ref: RevisionRef | None, answer: Answer, alone: dict[RevisionRef | None, Answer]
) -> str:
    others = [_named(other) for other, its in alone.items() if other != ref and its.agrees(answer)]
    by = " or ".join(others) or "nothing that answers so alone"
    return f"in company, {_named(ref)} was answered by {by}"


def _named(ref: RevisionRef | None) -> str:
    return "the base" if ref is None else f"{ref.tenant}/{ref.adapter}"
