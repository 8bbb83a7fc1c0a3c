"""One choice in the making: tokens in, pieces of text out. No torch."""

import random
from collections.abc import Collection, Sequence

from service.rendering.detokenizer import Detokenizer
from service.serving.engine import Piece, Sampling, TokenLogprob
from service.serving.stopping import StopMatcher
from service.serving.structures import Structure

Ranked = Sequence[tuple[int, float]]


class Choice:
    """Turns one sequence's tokens into pieces, and knows when it has ended."""

    def __init__(
        self,
        index: int,
        sampling: Sampling,
        eos: Collection[int],
        detokenizer: Detokenizer,
        structure: Structure | None = None,
    ) -> None:
        self._index = index
        self._sampling = sampling
        self.structure = structure
        self.ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos)}
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(sampling.stop)
        self._tokens = 0
        self._received = 0
        self._let_out = 0
        self._pending: list[tuple[int, TokenLogprob]] = []

    def take(self, token: int, logprob: float | None = None, top: Ranked = ()) -> Piece | None:
        """Take the next token; returns a piece if there is something to say.

        The piece that has a `finish_reason` is the last one. Raises BadRequest when the choice's
        structure cannot be followed any further.
        """
        self._tokens += 1
        if self.structure is not None:
            self.structure.take(token)
        if token in self.ends:
            return self._last("stop")
        if logprob is not None:
            self._pending.append((self._received, self._logprob(token, logprob, top)))
        text = self._add(self._detokenizer.add(token))
        if self._matcher.stopped:
            return self._piece(text, "stop")
        if self.structure is not None and self.structure.over:
            return self._last("stop", text)
        if self._tokens >= self._sampling.max_tokens:
            return self._last("length", text)
        return self._piece(text, None)

    def _add(self, text: str) -> str:
        self._received += len(text)
        return self._matcher.add(text)

    def _last(self, reason: str, text: str = "") -> Piece | None:
        text += self._add(self._detokenizer.flush())
        if self._matcher.stopped:
            return self._piece(text, "stop")
        text += self._matcher.flush()
        return self._piece(text, reason, whole=True)

    def _piece(self, text: str, reason: str | None, *, whole: bool = False) -> Piece | None:
        self._let_out += len(text)
        logprobs = self._settled(whole=whole)
        if not text and not logprobs and reason is None:
            return None
        return Piece(
            index=self._index,
            text=text,
            tokens=self._tokens,
            logprobs=logprobs if self._sampling.logprobs is not None else None,
            finish_reason=reason,
        )

    def _settled(self, *, whole: bool) -> list[TokenLogprob]:
        """Take the tokens whose text is out: one held back may yet be cut off by a stop string."""
        count = len(self._pending)
        if not whole:
            count = sum(start < self._let_out for start, _ in self._pending)
        settled, self._pending = self._pending[:count], self._pending[count:]
        return [logprob for _, logprob in settled]

    def _logprob(self, token: int, logprob: float, top: Ranked) -> TokenLogprob:
        alternatives = [self._named(other, value, []) for other, value in top]
        return self._named(token, logprob, alternatives)

    def _named(self, token: int, logprob: float, top: list[TokenLogprob]) -> TokenLogprob:
        content = self._detokenizer.token_bytes(token)
        text = content.decode("utf-8", errors="replace")
        return TokenLogprob(token, text, list(content), logprob, top)


def chances(seed: int | None, index: int) -> random.Random:
    """Make a choice's own source of chance: the same numbers for the same seed and index."""
    if seed is None:
        return random.Random()  # noqa: S311 - sampling, not secrets
    return random.Random(f"{seed}/{index}")  # noqa: S311


def own_seed(seed: int | None, index: int) -> int | None:
    """Make a choice's own seed, for who draws by itself; below 2**63. None stays None."""
    return None if seed is None else chances(seed, index).getrandbits(63)
