"""What the next step computes: running sequences' next tokens, and chunks of prompts. Pure.

    waiting -> running (prompt in chunks, then token by token) -> gone
       ^---------- preempted: its blocks are needed by an older one

Where a pass costs by its tokens, a step takes in a few prompt tokens beside the next tokens. Where
next tokens alone are replayed from a graph and prompts are not, prompts have steps of their own: at
once when nobody is running, else after `BETWEEN` steps of next tokens, all that came meanwhile
together.

The prompt of one that goes ahead, as one of the few of its tenant, has a step of its own before
that. Every second one at most is, so that all others go on; and it takes no block that is needed by
one that came before it. Where a pass costs by its tokens, steps are short for a while after: more
of its tenant's may come, and each waits for the step under way. All others take turns in them.

Else first come, first served. Blocks for the whole prompt are taken when a sequence is let in,
others as it grows. When none is left, the youngest goes back to wait, with what it has generated as
part of its prompt; the oldest is never sent back, so everyone ends.
"""

import bisect
from collections.abc import Collection, Iterable, Iterator

import msgspec

from service.base.generating.blocks import Blocks, chain

CHUNK_TOKENS = 512
"""Prompt tokens in one step, so that whoever runs goes on."""
BETWEEN = 8
"""Steps of next tokens before prompts have another of their own."""
SHORT_ROWS = 12
"""Next tokens in a short step. On a CPU, twice as many take about twice as long."""
SHORT_STEPS = 512
"""After the last came that goes ahead: seconds of a small model's."""


class Chunk(msgspec.Struct, frozen=True):
    """Tokens of one sequence that a step computes."""

    key: int
    start: int
    """How many of its tokens are in the cache already."""
    tokens: list[int]
    blocks: list[int]
    """Where they and all before them lie."""
    last: bool
    """Whether the sequence's next token is to be picked then."""

    @property
    def end(self) -> int:
        """How many tokens are in the cache after it."""
        return self.start + len(self.tokens)


class Step(msgspec.Struct):
    """One forward pass."""

    chunks: list[Chunk]
    fresh: list[int]
    """Blocks that were another's before."""
    lost: list[int]
    """Sequences that have grown beyond all the blocks there are."""


class _Sequence(msgspec.Struct):
    order: int
    key: int
    tokens: list[int]
    digests: list[bytes]
    """Of full blocks, if it shares them."""
    start: bytes
    shared: bool
    ahead: bool
    blocks: list[int] = []
    done: int = 0
    """Tokens in the cache."""
    turn: int = 0
    """The step of its last next token."""

    @property
    def left(self) -> int:
        return len(self.tokens) - self.done


class Schedule:
    """Owns `blocks`. At most `most` sequences run at once.

    A step has at most `chunk_tokens` of prompts; together with next tokens, at most `beside`. With
    `beside` 0 they are never together.
    """

    def __init__(
        self,
        blocks: Blocks,
        most: int,
        chunk_tokens: int = CHUNK_TOKENS,
        beside: int = CHUNK_TOKENS,
    ) -> None:
        self._blocks = blocks
        self._most = most
        self._chunk_tokens = chunk_tokens
        self._beside = min(beside, chunk_tokens)
        self._let_ahead = False
        """Whether the last step was one's that goes ahead."""
        self._since_prompts = BETWEEN
        """Steps of next tokens."""
        self._steps = 0
        self._short_until = 0
        self._waiting: list[_Sequence] = []
        self._running: dict[int, _Sequence] = {}
        self._added = 0
        self.preemptions = 0
        self.reused = 0
        """Tokens that were found in the cache."""

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    def add(
        self,
        key: int,
        start: bytes,
        tokens: Iterable[int],
        *,
        shared: bool = True,
        ahead: bool = False,
    ) -> None:
        """Let a sequence wait; its chain begins with `start`, unless it shares no block."""
        tokens = list(tokens)
        digests = chain(start, tokens, self._blocks.size) if shared else []
        self._waiting.append(_Sequence(self._added, key, tokens, digests, start, shared, ahead))
        self._added += 1
        if ahead and self._beside:
            self._short_until = self._steps + SHORT_STEPS

    def drop(self, keys: Collection[int]) -> None:
        """Let sequences go, wherever they are."""
        self._waiting = [one for one in self._waiting if one.key not in keys]
        for key in keys:
            if key in self._running:
                self._blocks.release(self._running.pop(key).blocks)

    def next(self) -> Step:
        """Say what to compute, and take the blocks for it."""
        step = Step([], [], [])
        self._steps += 1
        self._let_ahead = not self._let_ahead and self._take_in(step, ahead=True)
        if self._let_ahead:
            return step
        preemptions = self.preemptions
        if self._beside or self._since_prompts < BETWEEN or not self._take_in(step):
            self._go_on(step)
            if self._beside or not step.chunks:
                self._take_in(step, lets_in=self.preemptions == preemptions)
        return step

    def advance(self, chunk: Chunk, token: int | None = None) -> None:
        """Report that a chunk is in the cache, and what was picked after it."""
        one = self._running[chunk.key]
        before, one.done = one.done // self._blocks.size, chunk.end
        full = slice(before, one.done // self._blocks.size)
        if one.shared:
            for block, digest in zip(one.blocks[full], one.digests[full], strict=True):
                self._blocks.publish(block, digest)
        if token is not None:
            one.tokens.append(token)
            if one.shared and len(one.tokens) % self._blocks.size == 0:
                self._add_digest(one)

    def check_integrity(self) -> None:
        """Raise AssertionError if the books are wrong."""
        self._blocks.check_integrity(one.blocks for one in self._running.values())
        orders = [one.order for one in self._waiting]
        assert orders == sorted(orders), "who waits is out of order"
        assert len(self._running) <= self._most, "too many run"
        for one in self._running.values():
            assert one.done < len(one.tokens), "a sequence has nothing to compute"
            assert len(one.blocks) >= self._blocks.needed(one.done), "tokens without a block"
        for one in self._waiting:
            assert not one.blocks, "who waits holds blocks"

    @property
    def _short(self) -> bool:
        return self._steps <= self._short_until

    def _go_on(self, step: Step) -> None:
        """Compute everyone's next token, as far as there is room; in a short step, of some."""
        for one in sorted(self._next_tokens(), key=_order):
            if one.key in self._running and self._grow(one, step):
                step.chunks.append(self._chunk(one, 1))
                one.turn = self._steps
        step.chunks = [chunk for chunk in step.chunks if chunk.key in self._running]
        self._since_prompts += 1

    def _next_tokens(self) -> list[_Sequence]:
        going = [one for one in self._running.values() if one.left == 1]
        if not self._short:
            return going
        others = sorted((one for one in going if not one.ahead), key=lambda one: one.turn)
        return [one for one in going if one.ahead] + others[:SHORT_ROWS]

    def _take_in(self, step: Step, *, lets_in: bool = True, ahead: bool = False) -> bool:
        """Compute chunks of prompts, or of those only that go ahead; tell whether there are any."""
        running = len(step.chunks)
        budget = self._prompt_tokens(beside=running > 0, ahead=ahead)
        for one in sorted(self._running.values(), key=_order):
            if one.left > 1 and budget and (one.ahead or not ahead):
                step.chunks.append(self._chunk(one, budget))
                budget -= len(step.chunks[-1].tokens)
        if lets_in:
            self._let_in(step, budget, ahead=ahead)
        if len(step.chunks) > running and not ahead:
            self._since_prompts = 0
        return len(step.chunks) > running

    def _prompt_tokens(self, *, beside: bool, ahead: bool) -> int:
        if self._short and not ahead:
            return max(1, self._beside // 2)
        return self._beside if beside else self._chunk_tokens

    def _grow(self, one: _Sequence, step: Step) -> bool:
        """Take the block for the next token if it needs one; False if it had to go itself."""
        if self._blocks.needed(len(one.tokens)) <= len(one.blocks):
            return True
        while not self._blocks.available:
            if len(self._running) == 1:
                step.lost.append(one.key)
                self.drop([one.key])
                return False
            youngest = max(self._running.values(), key=_order)
            self._preempt(youngest)
            if youngest is one:
                return False
        self._take(one, 1, step)
        return True

    def _preempt(self, one: _Sequence) -> None:
        del self._running[one.key]
        self._blocks.release(one.blocks)
        one.blocks, one.done = [], 0
        bisect.insort(self._waiting, one, key=_order)
        self.preemptions += 1

    def _let_in(self, step: Step, budget: int, *, ahead: bool) -> None:
        if ahead and not any(one.ahead for one in self._waiting):
            return
        coming = set(self._coming()) if self._waiting else set()
        owed = 0
        """Blocks of those that came before and are passed."""
        for one in list(self._waiting):
            if not budget or len(self._running) >= self._most:
                return
            if ahead and not one.ahead:
                owed += self._blocks.needed(len(one.tokens))
                continue
            # The last token is computed in any case: its logits are wanted.
            shareable = one.digests[: (len(one.tokens) - 1) // self._blocks.size]
            found = self._blocks.find(shareable)
            if shareable[len(found) : len(found) + 1] and shareable[len(found)] in coming:
                continue
            if not self._enter(one, found, step, owed):
                return
            if one.key in self._running:
                coming.update(one.digests[len(found) :])
                step.chunks.append(self._chunk(one, budget))
                budget -= len(step.chunks[-1].tokens)

    def _enter(self, one: _Sequence, found: list[int], step: Step, owed: int) -> bool:
        """Let one in; False if those behind it have to wait as well."""
        wanted = self._blocks.needed(len(one.tokens))
        room = self._blocks.available - self._blocks.idle(found)
        # One block for each that runs: else who is let in is sent back at once.
        if wanted - len(found) + len(self._running) + owed > room:
            if self._running or owed:
                return False
            step.lost.append(one.key)
            self._waiting.remove(one)
            return True
        self._waiting.remove(one)
        self._blocks.hold(found)
        one.blocks, one.done = list(found), len(found) * self._blocks.size
        self.reused += one.done
        self._take(one, wanted - len(found), step)
        self._running[one.key] = one
        return True

    def _take(self, one: _Sequence, count: int, step: Step) -> None:
        taken = self._blocks.take(count)
        one.blocks += taken
        step.fresh += taken

    def _coming(self) -> Iterator[bytes]:
        """Walk the blocks that running sequences will have filled when their prompts are in."""
        for one in self._running.values():
            if one.left > 1:
                yield from one.digests[one.done // self._blocks.size :]

    def _chunk(self, one: _Sequence, most: int) -> Chunk:
        tokens = one.tokens[one.done : one.done + most]
        last = one.done + len(tokens) == len(one.tokens)
        return Chunk(one.key, one.done, tokens, one.blocks, last)

    def _add_digest(self, one: _Sequence) -> None:
        size = self._blocks.size
        parent = one.digests[-1] if one.digests else one.start
        one.digests += chain(parent, one.tokens[-size:], size)


def _order(one: _Sequence) -> int:
    return one.order
