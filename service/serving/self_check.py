"""Whether an engine answers with the adapter that it is asked for, asked before anybody else asks.

vLLM's builds for CPUs were seen to answer requests for the base with the adapter in the last slot
while others ran beside them. No test of ours can know every build: so each start looks.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import combinations
from math import inf

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
LIKELIEST = 5
"""Tokens that are told of at each place: rounding may bring one of them before the others."""
TOLERANCE, MOST_TOLERANCE = 0.3, 1.0
"""Nats by which company may change a token's log-probability: 16-bit products are rounded by their
batch. Another adapter changes them by far more, as the check makes sure of first."""
ROUNDINGS = 3.0
"""Times what company of its own kind does to the base, before there is any adapter to mix up, which
is allowed too: products with 4-bit weights are rounded more."""


class MixedUp(Exception):
    """An engine that must answer nobody; the message says what it did."""


class Answer(msgspec.Struct, frozen=True):
    """What was said to a prompt, token by token, each with the likeliest at its place."""

    tokens: list[TokenLogprob]

    def difference(self, other: "Answer") -> float:
        """Tell by how many nats both differ at most, as far as they say the same; `inf` where the
        other goes on with what was not likely here.
        """
        most = 0.0
        for mine, theirs in zip(self.tokens, other.tokens, strict=False):
            known = {token.token_id: token.logprob for token in (mine, *mine.top)}
            most = max(most, abs(known.get(theirs.token_id, inf) - theirs.logprob))
            if mine.token_id != theirs.token_id:
                # As likely as each other, or not; what follows is another text.
                break
        return most


async def self_check(engine: Engine, refs: Sequence[RevisionRef], prompt: list[int]) -> None:
    """Ask each of `refs` and the base alone, beside one another, and in a mixture. Raises MixedUp.

    There is one revision more than the engine has places, and all change its answers: so every
    place is filled, and some twice.
    """
    check = _Check(engine, prompt)
    told = await check.ask(None)
    beside_itself = await asyncio.gather(*(check.ask(None) for _ in range(2 * AT_ONCE)))
    rounding = ROUNDINGS * max(map(told.difference, beside_itself))
    allowed = min(max(TOLERANCE, rounding), MOST_TOLERANCE)
    alone = {None: told} | {ref: await check.ask(ref) for ref in refs}
    judge = _Judge(alone, allowed)
    for before, ref in zip([refs[-1], *refs], refs, strict=False):
        judge.compare(await check.beside(ref, [None, before, None]))
    for ref in refs[:2]:
        judge.compare([(ref, await check.moved(ref, refs))])
    mixture = [None, *refs[:AT_ONCE], None, *reversed(refs[:AT_ONCE]), None]
    answers = await asyncio.gather(*map(check.ask, mixture))
    judge.compare(list(zip(mixture, answers, strict=True)))


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
        sampling = Sampling(max_tokens=count, temperature=0.0, ignore_eos=True, logprobs=LIKELIEST)
        request = GenerationRequest(
            id="self-check", revision=ref, prompt=self._prompt, sampling=sampling
        )
        async with closing(self._engine.generate(request)) as pieces:
            async for piece in pieces:
                for token in piece.logprobs or []:
                    yield token


class _Judge:
    def __init__(self, alone: dict[RevisionRef | None, Answer], allowed: float) -> None:
        """Take what each said alone. Raises MixedUp where two said the same."""
        self._alone, self._allowed = alone, allowed
        for (one, first), (other, second) in combinations(alone.items(), 2):
            if first.difference(second) <= allowed:
                raise MixedUp(f"{_named(one)} and {_named(other)} give the same answer")

    def compare(self, told: Told) -> None:
        """Raise MixedUp unless each said in company what it says alone."""
        for ref, answer in told:
            difference = self._alone[ref].difference(answer)
            if difference > self._allowed:
                raise MixedUp(
                    f"in company, {_named(ref)} was answered by {self._others(ref, answer)}: it "
                    f"differs by {difference:.2g} nats, of which {self._allowed:.2g} are allowed"
                )

    def _others(self, ref: RevisionRef | None, answer: Answer) -> str:
        others = [
            _named(other)
            for other, its in self._alone.items()
            if other != ref and its.difference(answer) <= self._allowed
        ]
        return " or ".join(others) or "nothing that answers so alone"


def _named(ref: RevisionRef | None) -> str:
    return "the base" if ref is None else f"{ref.tenant}/{ref.adapter}"
