"""The cache's blocks and the schedule, against every order of events and a model of the memory."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.base.generating.blocks import Blocks, chain, root
from service.base.generating.schedule import (
    BETWEEN,
    SHORT_ROWS,
    SHORT_STEPS,
    Schedule,
    Step,
)

SIZE, COUNT, MOST, CHUNK, BESIDE = 4, 12, 5, 7, 3
ROOTS = [root("acme", None), root("acme", "one"), root("globex", None)]
# Few different tokens and lengths: so prompts often begin alike.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=20)


class BlocksMachine(RuleBasedStateMachine):
    """Sequences of full blocks come and go; every block's content is kept beside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(COUNT, SIZE)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @rule(start=st.sampled_from(ROOTS), tokens=prompts, published=st.booleans())
    def enter(self, start: bytes, tokens: list[int], published: bool) -> None:
        digests = chain(start, tokens, SIZE)
        found = self.blocks.find(digests)
        assert [self.content[block] for block in found] == digests[: len(found)]
        wanted = self.blocks.needed(len(tokens)) - len(found)
        if wanted > self.blocks.available - self.blocks.idle(found):
            return
        self.blocks.hold(found)
        table = [*found, *self.blocks.take(wanted)]
        for block in table[len(found) :]:
            self.content.pop(block, None)
        self.tables.append(table)
        for block, digest in zip(table, digests, strict=False):
            if published or block in found:
                self.content[block] = digest
                self.blocks.publish(block, digest)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.tables.remove(table)
        self.blocks.release(table)

    @invariant()
    def the_books_are_right(self) -> None:
        self.blocks.check_integrity(self.tables)
        assert self.blocks.used == len({block for table in self.tables for block in table})


class ScheduleMachine(RuleBasedStateMachine):
    """Runs steps on a memory that remembers what each place was written for."""

    beside = CHUNK

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(Blocks(COUNT, SIZE), MOST, CHUNK, self.beside)
        self.memory: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.roots: dict[int, bytes] = {}
        self.lengths: dict[int, int] = {}
        self.next_key = 0

    @rule(
        start=st.sampled_from(ROOTS),
        tokens=prompts,
        more=st.integers(1, 28),
        shared=st.booleans(),
        ahead=st.booleans(),
    )
    def add(self, start: bytes, tokens: list[int], more: int, shared: bool, ahead: bool) -> None:
        key, self.next_key = self.next_key, self.next_key + 1
        self.tokens[key], self.roots[key] = list(tokens), start
        self.lengths[key] = min(len(tokens) + more, COUNT * SIZE)
        self.schedule.add(key, start, tokens, shared=shared, ahead=ahead)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.tokens))))

    @rule(fails=st.booleans(), token=st.integers(0, 1))
    def step(self, fails: bool, token: int) -> None:
        step = self.schedule.next()
        self.check(step)
        for chunk in step.chunks:
            if fails and chunk.key % 2:
                self.end(chunk.key)
            else:
                self.compute(chunk, token)

    def compute(self, chunk, token: int) -> None:
        known = self.tokens[chunk.key]
        for at in range(chunk.end):
            place = chunk.blocks[at // SIZE] * SIZE + at % SIZE
            content = (self.roots[chunk.key], tuple(known[: at + 1]))
            if at >= chunk.start:
                self.memory[place] = content
            assert self.memory[place] == content, "it would attend to another's past"
        self.schedule.advance(chunk, token if chunk.last else None)
        if chunk.last:
            known.append(token)
            if len(known) >= self.lengths[chunk.key]:
                self.end(chunk.key)

    def check(self, step: Step) -> None:
        assert not step.lost, "everyone here fits alone"
        keys = [chunk.key for chunk in step.chunks]
        assert len(set(keys)) == len(keys)
        assert bool(keys) == self.schedule.busy, "a step that does nothing"
        prompt_tokens = sum(len(c.tokens) for c in step.chunks if c.end - c.start > 1)
        assert prompt_tokens <= CHUNK
        for chunk in step.chunks:
            assert chunk.tokens == self.tokens[chunk.key][chunk.start : chunk.end]
            assert chunk.last == (chunk.end == len(self.tokens[chunk.key]))
        for block in step.fresh:
            for place in range(block * SIZE, (block + 1) * SIZE):
                self.memory.pop(place, None)

    def end(self, key: int) -> None:
        self.schedule.drop([key])
        del self.tokens[key]

    @invariant()
    def the_books_are_right(self) -> None:
        self.schedule.check_integrity()

    def teardown(self) -> None:
        """Nobody starves: from any state, everyone ends."""
        for _ in range(2000):
            if not self.tokens:
                return
            self.step(fails=False, token=0)
            self.schedule.check_integrity()
        raise AssertionError(f"{sorted(self.tokens)} never end")


class FewBesideMachine(ScheduleMachine):
    """Takes in few prompt tokens beside next tokens."""

    beside = BESIDE


class ApartMachine(ScheduleMachine):
    """Takes in prompts in steps of their own."""

    beside = 0


TestBlocks = BlocksMachine.TestCase
TestSchedule = ScheduleMachine.TestCase
TestFewBeside = FewBesideMachine.TestCase
TestApart = ApartMachine.TestCase
TestBlocks.settings = TestSchedule.settings = settings(max_examples=60, deadline=None)
TestFewBeside.settings = TestApart.settings = settings(max_examples=40, deadline=None)


arrivals = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 20)), min_size=1, max_size=MOST)


@given(arrivals, st.sampled_from([CHUNK, BESIDE, 0]))
def test_neither_prompts_nor_next_tokens_wait_long(
    coming: list[tuple[int, int]], beside: int
) -> None:
    """Each comes so many steps after the one before, with so long a prompt; there is room."""
    schedule = Schedule(Blocks(200, SIZE), MOST, CHUNK, beside)
    came: dict[int, int] = {}
    picked: dict[int, list[int]] = {}
    due = [sum(wait for wait, _ in coming[: at + 1]) for at in range(len(coming))]
    now = 0
    while len(picked) < len(coming) or now < max(due) + 10:
        for key in (key for key, at in enumerate(due) if at == now):
            schedule.add(key, root(str(key), None), [1] * coming[key][1])
            came[key] = now
        if not schedule.busy:
            now += 1
            continue
        for chunk in schedule.next().chunks:
            schedule.advance(chunk, 1 if chunk.last else None)
            if chunk.last:
                picked.setdefault(chunk.key, []).append(now)
        now += 1
    passes = sum(1 + length // (beside or CHUNK) for _, length in coming)
    for key, times in picked.items():
        assert times[0] - came[key] <= passes * (1 if beside else BETWEEN + 1)
        waits = [after - before for before, after in itertools.pairwise(times)]
        assert all(wait == 1 for wait in waits) or (not beside and max(waits) == 2)
        if not beside and 2 in waits:
            # One pass of prompts, and then so many steps of next tokens.
            assert all(1 in waits[at : at + BETWEEN] for at in range(len(waits) - 1))


def test_prompts_that_come_while_others_run_are_taken_in_together() -> None:
    schedule = Schedule(Blocks(200, SIZE), MOST, 100, 0)
    kinds = []
    for now in range(2 * BETWEEN + 4):
        if now in (0, 2, 3, 4):
            schedule.add(now, root(str(now), None), [1] * 10)
        chunks = schedule.next().chunks
        kinds.append([(chunk.key, len(chunk.tokens)) for chunk in chunks])
        for chunk in chunks:
            schedule.advance(chunk, 1 if chunk.last else None)
    prompts = {now: kind for now, kind in enumerate(kinds) if any(size > 1 for _, size in kind)}
    assert prompts == {0: [(0, 10)], BETWEEN + 1: [(2, 10), (3, 10), (4, 10)]}
    assert kinds[1] == [(0, 1)]
    assert kinds[BETWEEN + 2] == [(0, 1), (2, 1), (3, 1), (4, 1)]


@given(st.lists(prompts, min_size=1, max_size=6))
def test_the_oldest_is_never_sent_back(given_prompts: list[list[int]]) -> None:
    schedule = Schedule(Blocks(6, SIZE), MOST, CHUNK)
    for key, tokens in enumerate(given_prompts):
        schedule.add(key, ROOTS[0], tokens)
    # 24 tokens are all that fit: with its prompt, the oldest has room for so many more.
    for _ in range(24 - len(given_prompts[0]) + 3):
        step = schedule.next()
        assert not step.lost
        assert step.chunks[0].key == 0
        if step.chunks[0].end == 24:
            return
        for chunk in step.chunks:
            schedule.advance(chunk, 1 if chunk.last else None)


def test_rows_of_one_prompt_compute_it_once() -> None:
    schedule = Schedule(Blocks(30, SIZE), MOST, 100)
    for key in range(4):
        schedule.add(key, ROOTS[1], [1] * 10)
    (first,) = schedule.next().chunks
    schedule.advance(first, 5)
    step = schedule.next()
    assert [(c.key, c.start, len(c.tokens)) for c in step.chunks] == [
        (0, 10, 1), (1, 8, 2), (2, 8, 2), (3, 8, 2)
    ]  # fmt: skip
    assert schedule.reused == 24


def test_tenants_and_adapters_share_no_block() -> None:
    tokens = [3] * 8
    starts = [root(*pair) for pair in [("a", None), ("b", None), ("a", "x"), ("ax", None)]]
    assert len({digest for start in starts for digest in chain(start, tokens, SIZE)}) == 8


def test_what_can_never_fit_is_given_up_and_holds_up_nobody() -> None:
    schedule = Schedule(Blocks(2, SIZE), MOST, 100)
    schedule.add(0, ROOTS[0], [1] * 9)
    schedule.add(1, ROOTS[0], [1] * 8)
    step = schedule.next()
    assert (step.lost, [chunk.key for chunk in step.chunks]) == ([0], [1])
    schedule.advance(step.chunks[0], 1)
    assert schedule.next().lost == [1]
    assert not schedule.busy


def test_one_who_is_sent_back_goes_on_where_it_was() -> None:
    schedule = Schedule(Blocks(4, SIZE), MOST, 100)
    schedule.add(0, ROOTS[0], [0] * 7)
    schedule.add(1, ROOTS[1], [1] * 3)
    computed: dict[int, list[int]] = {0: [], 1: []}
    while schedule.preemptions < 1:
        for chunk in schedule.next().chunks:
            schedule.advance(chunk, 2 if chunk.last else None)
            computed[chunk.key] += chunk.tokens
    schedule.drop([0])
    (back,) = schedule.next().chunks
    assert computed[1] == [1, 1, 1, 2]
    # The block that it filled was still there; the token after it had been picked already.
    assert (back.key, back.start, back.tokens) == (1, 4, [2])


@pytest.mark.parametrize("count", [0, 3])
def test_more_blocks_than_there_are_cannot_be_taken(count: int) -> None:
    with pytest.raises(ValueError):
        Blocks(count).take(count + 1)


def test_what_shares_nothing_leaves_nothing_to_be_found() -> None:
    blocks = Blocks(4, SIZE)
    schedule = Schedule(blocks, MOST, 100)
    schedule.add(0, ROOTS[0], [1] * 9, shared=False)
    for chunk in schedule.next().chunks:
        schedule.advance(chunk, 1)
    schedule.drop([0])
    assert blocks.find(chain(ROOTS[0], [1] * 9, SIZE)) == []


@pytest.mark.parametrize("beside", [CHUNK, BESIDE, 0])
def test_one_that_goes_ahead_waits_for_no_other_prompt_and_holds_nobody_up(beside: int) -> None:
    schedule = Schedule(Blocks(200, SIZE), MOST, CHUNK, beside)
    schedule.add(0, ROOTS[0], [1])
    schedule.advance(schedule.next().chunks[0], 1)
    schedule.add(1, ROOTS[1], [1] * 70)
    steps = []
    for now in range(40):
        if now % 3 == 2:
            schedule.add(10 + now, ROOTS[2], [now] * 5, ahead=True)
        step = schedule.next()
        for chunk in step.chunks:
            schedule.advance(chunk, 1 if chunk.last else None)
            if chunk.key >= 10:
                schedule.drop([chunk.key])
        steps.append({chunk.key for chunk in step.chunks})
    for now in range(2, 40, 3):
        assert steps[now] == {10 + now}, "a step of its own, at once"
        assert 0 in steps[now - 1] | steps[now - 2]
    assert any(1 in step for step in steps[:20]), "the long prompt is taken in all the same"


@given(st.integers(1, 20), st.sampled_from([CHUNK, BESIDE, 0]))
def test_those_that_go_ahead_never_take_the_blocks_that_another_waits_for(
    length: int, beside: int
) -> None:
    """Somebody new comes at every step, and the cache has room for few."""
    schedule = Schedule(Blocks(6, SIZE), MOST, CHUNK, beside)
    schedule.add(0, ROOTS[0], [1] * 8)
    schedule.advance(schedule.next().chunks[0], None)
    schedule.add(1, ROOTS[1], [1] * length)
    ended: set[int] = set()
    for now in range(2, 400):
        schedule.add(now, root(str(now), None), [1] * 6, ahead=True)
        for chunk in schedule.next().chunks:
            schedule.advance(chunk, 1 if chunk.last else None)
            if chunk.last and (chunk.key > 1 or chunk.end > 10):
                schedule.drop([chunk.key])
                ended.add(chunk.key)
        if {0, 1} <= ended:
            return
    raise AssertionError(f"only {ended & {0, 1}} ended")


@pytest.mark.parametrize("beside", [BESIDE, 0])
def test_steps_are_short_after_one_that_went_ahead_and_all_others_take_turns(beside: int) -> None:
    rows = 3 * SHORT_ROWS - 5
    schedule = Schedule(Blocks(10_000, SIZE), rows + 2, rows, beside)
    for key in range(rows):
        schedule.add(key, root(str(key), None), [1])
    going_on(schedule, rows)
    schedule.add(rows, ROOTS[2], [1], ahead=True)
    steps = going_on(schedule, SHORT_STEPS)
    if not beside:
        assert steps[-1] == set(range(rows + 1)), "what is replayed is as long in any case"
        return
    assert max(map(len, steps)) == SHORT_ROWS + 1
    assert all(rows in step for step in steps), "who goes ahead is in every one"
    for at in range(1, len(steps) - 3):
        assert set().union(*steps[at : at + 3]) == set(range(rows + 1))
    assert going_on(schedule, 2)[-1] == set(range(rows + 1)), "not for ever"


def going_on(schedule: Schedule, steps: int) -> list[set[int]]:
    """Compute; tell whose tokens each step had."""
    seen = []
    for _ in range(steps):
        chunks = schedule.next().chunks
        for chunk in chunks:
            schedule.advance(chunk, 1)
        seen.append({chunk.key for chunk in chunks})
    return seen
