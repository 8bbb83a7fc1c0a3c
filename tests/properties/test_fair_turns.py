"""Turns by virtual token counters: nobody starves, and service differs by a bound at most."""

import itertools
from collections import defaultdict

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store import RevisionRef
from service.serving import admission as admitting
from service.serving.admission import Admission, Asked, at_once
from service.serving.fair_turns import INPUT, OUTPUT, REMEMBERED, FairTurns
from service.serving.residency import Residency
from service.serving.waiting_room import WaitingRoom

LONGEST_PROMPT, LONGEST_ANSWER = 40, 12
PLACES = 4
CREDIT = 10

lengths = st.tuples(st.integers(1, LONGEST_PROMPT), st.integers(1, LONGEST_ANSWER))
weights = st.sampled_from([0.5, 1.0, 2.0, 4.0])


class Request(msgspec.Struct):
    tenant: str
    prompt: int
    left: int


class Batch:
    """Runs what admission lets in, a token for each at every step, and keeps books of its own."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        residency = Residency(1, itertools.count().__next__)
        self.admission = Admission(PLACES, residency, credit=CREDIT)
        self.requests: dict[int, Request] = {}
        self.running: set[int] = set()
        self.waiting: defaultdict[str, int] = defaultdict(int)
        self.served: defaultdict[str, float] = defaultdict(float)
        self._keys = itertools.count()

    def offer(self, tenant: str, prompt: int, answer: int) -> None:
        key = next(self._keys)
        self.requests[key] = Request(tenant, prompt, answer)
        self.waiting[tenant] += 1
        self.admission.offer([key], Asked(tenant, self.weights[tenant], None, prompt))

    def step(self) -> None:
        for key in self.admission.decide().run:
            request = self.requests[key]
            self.running.add(key)
            self.waiting[request.tenant] -= 1
            self.count(request.tenant, INPUT * request.prompt)
        assert len(self.running) <= at_once(PLACES)
        self.admission.generated(self.running)
        for key in self.running:
            self.requests[key].left -= 1
            self.count(self.requests[key].tenant, OUTPUT)
        done = {key for key in self.running if not self.requests[key].left}
        self.running -= done
        self.admission.withdraw(done)

    def count(self, tenant: str, cost: float) -> None:
        self.served[tenant] += cost / self.weights[tenant]


@given(
    weights=st.tuples(weights, weights),
    heavy=st.lists(lengths, min_size=1, max_size=8),
    light=st.lists(lengths, min_size=1, max_size=8),
    others=st.lists(st.tuples(st.integers(0, 60), st.sampled_from("xyz"), lengths), max_size=20),
    head_start=st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_two_who_always_have_something_waiting_get_the_same_but_for_a_bound(
    weights, heavy, light, others, head_start
) -> None:
    """However long their prompts and answers are, who else comes, and who was there before."""
    batch = Batch({"heavy": weights[0], "light": weights[1], "x": 1.0, "y": 1.0, "z": 1.0})
    coming = {"heavy": itertools.cycle(heavy), "light": itertools.cycle(light)}
    differences = []
    for step in range(head_start + 120):
        for tenant in ["heavy", "light"] if step >= head_start else ["heavy"]:
            # More than one decision can let in.
            while batch.waiting[tenant] <= at_once(PLACES):
                batch.offer(tenant, *next(coming[tenant]))
        for at, tenant, length in others:
            if at == step:
                batch.offer(tenant, *length)
        batch.step()
        if step >= head_start:
            differences.append(batch.served["heavy"] - batch.served["light"])
    tokens = at_once(PLACES) * LONGEST_ANSWER
    bound = (CREDIT + 2 * (INPUT * LONGEST_PROMPT + OUTPUT * tokens)) / min(weights)
    assert max(differences) - min(differences) <= bound


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcd"), lengths), max_size=40))
def test_everyone_ends_and_no_place_is_idle_while_somebody_waits(asked) -> None:
    batch = Batch(dict.fromkeys("abcd", 1.0))
    for step in range(31):
        for at, tenant, length in asked:
            if at == step:
                batch.offer(tenant, *length)
        batch.step()
    for _ in range(len(asked) * LONGEST_ANSWER):
        batch.step()
    assert not batch.running
    assert batch.admission.waiting == batch.admission.running == 0


def test_who_was_away_has_saved_nothing_up() -> None:
    turns = FairTurns()
    turns.came("busy", 1.0)
    turns.charge("busy", generated=1000)
    turns.came("new", 1.0)
    turns.charge("new", read=1)
    assert turns.next(["new", "busy"]) == "busy"


def test_of_equals_the_one_of_whom_nothing_runs_comes_first() -> None:
    turns = FairTurns()
    for tenant in ("busy", "new"):
        turns.came(tenant, 1.0)
    turns.began("busy")
    assert turns.next(["busy", "new"]) == "new"


def test_tenants_who_are_gone_are_forgotten_unless_they_had_more_than_others() -> None:
    turns = FairTurns()
    turns.came("stays", 1.0)
    turns.came("greedy", 1.0)
    turns.charge("greedy", read=1000)
    turns.left("greedy")
    for number in range(3 * REMEMBERED):
        turns.came(f"t{number}", 1.0)
        turns.left(f"t{number}")
    assert len(turns._accounts) <= REMEMBERED
    turns.came("greedy", 1.0)
    assert turns.next(["greedy", "stays"]) == "stays"


def test_a_tenant_of_whom_nothing_runs_finds_a_place_in_a_full_batch() -> None:
    batch = Batch({"heavy": 1.0, "light": 1.0})
    for _ in range(20):
        batch.offer("heavy", 1, 12)
    batch.step()
    assert len(batch.running) == PLACES
    batch.offer("light", 1, 12)
    batch.offer("light", 1, 12)
    batch.step()
    assert sorted(batch.requests[key].tenant for key in batch.running) == ["heavy"] * 4 + ["light"]


def test_a_light_tenant_waits_for_no_turn_where_a_place_is_spare_for_it() -> None:
    """Its last prompt has just been charged to it, so that the next turn is the other's."""
    admission = Admission(32, Residency(1, itertools.count().__next__))
    for key in range(40):
        admission.offer([key], Asked("heavy", 1.0, None, 10))
    assert len(admission.decide().run) == 32
    for key in range(100, 104):
        admission.offer([key], Asked("light", 1.0, None, admitting.CREDIT // 4))
        decision = admission.decide()
        assert (decision.run, decision.ahead) == ([key], {key})
    admission.offer([104], Asked("light", 1.0, None, 1))
    assert admission.decide().run == [], "no place is left at all"


def test_a_light_tenant_goes_before_its_turn_for_so_many_tokens_at_most() -> None:
    admission = Admission(32, Residency(1, itertools.count().__next__), credit=100)
    for key in range(40):
        admission.offer([key], Asked("heavy", 1.0, None, 10))
    admission.decide()
    for key, prompt in ((100, 60), (101, 60), (102, 60)):
        admission.offer([key], Asked("light", 1.0, None, prompt))
    assert admission.decide().run == [100, 101]
    admission.generated(range(32))
    assert admission.decide().run == [102]


def test_a_cold_adapter_keeps_its_turn_while_warm_ones_go_past() -> None:
    residency = Residency(2, itertools.count().__next__)
    warm, cold = (RevisionRef(name, "a", "0" * 64) for name in ("heavy", "light"))
    admission = Admission(1, residency)
    admission.offer([0], Asked("heavy", 1.0, warm, 10))
    admission.decide()
    residency.loaded(warm, 0.1)
    assert admission.decide().run == [0]
    for key in range(1, 20):
        admission.offer([key], Asked("heavy", 1.0, warm, 10))
    admission.offer([99], Asked("light", 1.0, cold, 1000))
    assert admission.decide().loads == [(cold, None)]
    for key in range(5):
        admission.withdraw([key])
        assert admission.decide().run == [key + 1]
    residency.loaded(cold, 0.1)
    assert admission.decide().run == [99]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.booleans()), max_size=80))
def test_the_waiting_room_is_never_too_full_and_never_one_tenants(deeds) -> None:
    """A tenant gets in while it has fewer there than places are left, and is counted out again."""
    room = WaitingRoom(8, 4)
    inside: list[tuple[str, int, bool]] = []
    for tenant, sequences, leaves in deeds:
        if leaves and inside:
            who, how_many, waited = inside.pop(0)
            if waited:
                room.admit(who)
            room.leave(how_many)
        waiting = [who for who, _, waits in inside if waits]
        fits = sum(how_many for _, how_many, _ in inside) + sequences <= 4
        waits = room.enter(tenant, sequences)
        assert waits == (
            None if not fits and waiting.count(tenant) >= 8 - len(waiting) else not fits
        )
        if waits is not None:
            inside.append((tenant, sequences, waits))
        assert room.waiting == sum(waits for *_, waits in inside) <= 8


def test_one_tenant_fills_half_of_the_waiting_room_and_the_next_still_gets_in() -> None:
    room = WaitingRoom(8, 4)
    outcomes = [room.enter("heavy", 1) for _ in range(20)]
    assert outcomes == [False] * 4 + [True] * 4 + [None] * 12
    assert [room.enter("light", 1) for _ in range(3)] == [True, True, None]
