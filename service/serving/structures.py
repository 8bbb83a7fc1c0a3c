"""Grammars at work: which tokens may come next in an answer that keeps to one. No torch."""

import asyncio
import re
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from service.errors import BadRequest
from service.serving.engine import Sampling

LIMITS = LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)
WHERE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
AT_ONCE, A_TOKEN = 0.25, 0.005
"""Seconds of computing that an answer's structure has, and more for each token: everybody in the
batch waits for it."""


@lru_cache(maxsize=64)
def fault_of(grammar: str) -> str:
    """Say what is wrong with a grammar, as far as it shows without a vocabulary; else nothing."""
    return _plain(LLMatcher.validate_grammar(grammar, limits=LIMITS))


def _plain(fault: str) -> str:
    """Leave out of a fault where in the grammar it is, which is none of the caller's."""
    told, _, _ = fault.partition("\n   1 | ")
    return " ".join(WHERE.sub("", told).split())


class Structure:
    """One answer's way through its grammar: a row's `service.base.rows.Structure`."""

    def __init__(self, matcher: LLMatcher, only_ends: bytes) -> None:
        self._matcher = matcher
        self._only_ends = only_ends
        self._left = AT_ONCE
        self.over = False

    def mask(self) -> bytes:
        """Tell which tokens may come next: a bit for each, the lowest of a byte first."""
        began = time.thread_time()
        mask = self._matcher.compute_bitmask()
        self._left -= time.thread_time() - began
        # Some grammars find out only here that they are at their end.
        self.over = mask == self._only_ends
        return mask

    def take(self, token: int) -> None:
        """Go on by a token. Raises BadRequest where that takes more than it may."""
        self._left += A_TOKEN
        if self._left < 0 or not self._matcher.consume_token(token):
            raise _refused("it is too complex to be followed")
        self.over = self._matcher.is_stopped()


class Structures:
    """Makes structures for one vocabulary, in which `ends` are the tokens that end an answer."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._size = vocabulary
        self._ends = list(ends)
        # Their own, as nobody else's work may wait for a hostile grammar.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="grammars")

    async def of(self, sampling: Sampling) -> list[Structure]:
        """Make one for each choice; none if the choices are free. Raises BadRequest."""
        if sampling.structure is None:
            return []
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._made, sampling.structure, sampling.n)

    def _made(self, grammar: str, n: int) -> list[Structure]:
        # Nothing of it is kept: no request finds what another one left, in good or in ill.
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=LIMITS)
        begun = self._begun(matcher)
        if begun.is_error():
            raise _refused(begun.get_error())
        return [Structure(matcher.deep_copy(), self._only_ends) for _ in range(n)]

    def _begun(self, matcher: LLMatcher) -> LLMatcher:
        """Try how it must begin: what is too much often shows there, before anybody waits."""
        begun = matcher.deep_copy()
        # Tokens first: only as one has a mark of calls a meaning.
        begun.consume_tokens(begun.compute_ff_tokens())
        begun.consume_tokens(self._vocabulary.tokenize_bytes(begun.compute_ff_bytes()))
        begun.compute_bitmask()
        return begun

    @cached_property
    def _only_ends(self) -> bytes:
        bits = sum(1 << end for end in {*self._vocabulary.eos_tokens})
        return bits.to_bytes(-(-self._size // 32) * 4, "little")

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        # A second's work for a large vocabulary, so it waits for somebody who needs it.
        ends = self._ends or None
        return LLTokenizer(self._tokenizer.to_str(), n_vocab=self._size, eos_token=ends)


def _refused(why: str) -> BadRequest:
    return BadRequest(f"The structure of the answer cannot be kept: {why}.", param="structure")
