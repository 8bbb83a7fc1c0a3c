"""Residency and admission against every order of events."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters_store import RevisionRef
from service.serving.admission import PATIENCE, Admission, Asked, at_once
from service.serving.load_times import BOUNDS, LoadTimes
from service.serving.residency import Load, Ready, Residency, TooManyPins

REFS = [RevisionRef("acme" if n % 3 else "globex", f"a{n}", f"{n:064x}") for n in range(6)]
LIMIT = st.sampled_from([None, None, 1, 2])
SOME = st.sets(st.sampled_from(REFS), max_size=4)


def asked(ref: RevisionRef | None, tenant: str | None = None, places: int | None = None) -> Asked:
    return Asked(tenant or (ref.tenant if ref else "acme"), 1.0, ref, 3, places)


def residency_of(limit: int) -> Residency:
    return Residency(limit, itertools.count().__next__)


class ResidencyMachine(RuleBasedStateMachine):
    """Keeps its own simple books beside the residency's."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = residency_of(3)
        self.leases: dict[RevisionRef, int] = {}
        self.loading: set[RevisionRef] = set()
        self.pins: set[RevisionRef] = set()
        self.limits: dict[str, int | None] = {}
        self.draining = False
        self.loads = self.failures = 0

    @property
    def full(self) -> bool:
        return len(self.leases) + len(self.loading) == 3

    def limited(self, ref: RevisionRef) -> bool:
        """Whether its tenant may have no more than it has."""
        limit = self.limits.get(ref.tenant)
        own = {r for r in [*self.leases, *self.loading] if r.tenant == ref.tenant} - self.pins
        pins = [pin for pin in self.pins if pin.tenant == ref.tenant]
        limited = limit is not None and len(own) >= max(1, limit - len(pins))
        return limited and ref not in self.pins

    def reserved(self, ref: RevisionRef, evict: RevisionRef | None) -> None:
        assert ref not in self.leases
        assert ref not in self.loading
        assert (evict is not None) == (self.full or self.limited(ref))
        assert evict is None or not self.limited(ref) or evict.tenant == ref.tenant
        if evict is not None:
            assert evict not in self.pins
            assert self.leases.pop(evict) == 0
        self.loading.add(ref)

    @rule(ref=st.sampled_from(REFS))
    def acquire(self, ref: RevisionRef) -> None:
        order = list(self.residency)
        match self.residency.acquire(ref):
            case Ready():
                assert ref in self.leases
                assert ref not in self.loading
                self.leases[ref] += 1
            case Load(evict):
                if evict is not None:
                    older = [
                        other
                        for other in order[: order.index(evict)]
                        if not self.limited(ref) or other.tenant == ref.tenant
                    ]
                    held = [self.leases[other] or other in self.pins for other in older]
                    assert self.draining or all(held)
                self.reserved(ref, evict)
            case _:
                limited = self.limited(ref)
                idle = [
                    r
                    for r, leases in self.leases.items()
                    if not (leases or r in self.pins or (limited and r.tenant != ref.tenant))
                ]
                waits = (self.full or limited) and not idle
                assert ref in self.loading or waits or self.draining

    @rule(tenant=st.sampled_from(["acme", "globex"]), most=LIMIT)
    def limit(self, tenant: str, most: int | None) -> None:
        self.residency.limit(tenant, most)
        self.limits[tenant] = most

    @precondition(lambda self: any(self.leases.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from([ref for ref, leases in self.leases.items() if leases]))
        self.residency.release(ref)
        self.leases[ref] -= 1

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), good=st.booleans())
    def finish_load(self, data: st.DataObject, good: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(ref)
        if good:
            self.residency.loaded(ref, 0.5)
            self.leases[ref] = 0
            self.loads += 1
        else:
            self.residency.failed(ref)
            self.failures += 1

    @rule(refs=SOME)
    def pin(self, refs: set[RevisionRef]) -> None:
        if len(refs) > 2:
            with pytest.raises(TooManyPins):
                self.residency.pin(refs)
        else:
            self.residency.pin(refs)
            self.pins = refs

    @rule(ref=st.sampled_from(REFS))
    def want(self, ref: RevisionRef) -> None:
        self.residency.want(ref)

    @rule(needed=SOME)
    def prefetch(self, needed: set[RevisionRef]) -> None:
        wanted = self.residency.wants
        found = self.residency.prefetch(needed)
        if found is not None:
            assert wanted
            assert not self.loading, "one at a time"
            ref, load = found
            assert load.evict not in needed
            self.reserved(ref, load.evict)
        elif wanted and not self.loading and not self.draining:
            held = {r for r, leases in self.leases.items() if leases} | self.pins | needed
            assert self.full or any(most is not None for most in self.limits.values())
            assert set(self.leases) <= held or not self.full

    @rule(wanted=st.sampled_from([None, *REFS]))
    def drain(self, wanted: RevisionRef | None) -> None:
        self.residency.drain(wanted)
        self.draining = wanted is not None

    @invariant()
    def the_books_are_right(self) -> None:
        self.residency.check_integrity()
        assert set(self.residency) == set(self.leases)
        told = {place.ref: place for place in self.residency.residents()}
        assert told.keys() == self.leases.keys() | self.loading
        for ref, place in told.items():
            assert (place.state == "loading") == (ref in self.loading)
            assert place.leases == self.leases.get(ref, 0)
            assert place.pinned == (ref in self.pins)
        assert self.residency.failures == self.failures
        assert self.residency.loads == sum(self.residency.load_times.counts) == self.loads


class AdmissionMachine(RuleBasedStateMachine):
    """Requests come, run, end and are cancelled; loads succeed and fail."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = residency_of(2)
        self.admission = Admission(4, self.residency)
        self.number = 0
        self.refs: dict[int, RevisionRef | None] = {}
        self.waiting: list[int] = []
        self.running: set[int] = set()
        self.loading: set[RevisionRef] = set()
        self.pins: set[RevisionRef] = set()
        self.places: dict[str, int | None] = {}
        self.asked = 0
        self.withdrawn = False

    def decide(self) -> None:
        before = set(self.residency)
        decision = self.admission.decide()
        for key in decision.run:
            self.waiting.remove(key)
            self.running.add(key)
            assert self.refs[key] is None or self.refs[key] in set(self.residency)
        for ref, evict in decision.loads:
            assert evict is None or evict not in {self.refs[key] for key in self.running}
            assert evict is None or evict in before - self.pins
            asked_for = {self.refs[key] for key in self.waiting} - {None}
            if ref not in asked_for:
                assert evict not in asked_for, "somebody waits for what made room for a prefetch"
            assert ref not in self.loading, "one load of a revision at a time"
            self.loading.add(ref)

    @rule(ref=st.sampled_from(REFS[:4]))
    def prefetch(self, ref: RevisionRef) -> None:
        self.residency.want(ref)
        self.decide()

    @rule(ref=st.sampled_from([None, *REFS[:4]]))
    def pin(self, ref: RevisionRef | None) -> None:
        self.pins = {ref} - {None}
        self.residency.pin(self.pins)
        self.decide()

    @rule(
        ref=st.sampled_from([None, *REFS[:4]]),
        n=st.integers(1, 3),
        tenant=st.sampled_from(["acme", "globex"]),
        places=LIMIT,
    )
    def offer(self, ref: RevisionRef | None, n: int, tenant: str, places: int | None) -> None:
        keys = list(range(self.number, self.number + n))
        self.number += n
        self.admission.offer(keys, asked(ref, tenant, places))
        if ref is not None and ref.tenant == tenant:
            self.places[tenant] = places
        self.refs |= dict.fromkeys(keys, ref)
        self.waiting += keys
        self.asked += ref is not None
        self.decide()

    @precondition(lambda self: self.running)
    @rule()
    def generate(self) -> None:
        self.admission.generated(self.running)

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([*sorted(self.running), *self.waiting]))
        self.admission.withdraw([key])
        # Who goes before its turn was neither.
        self.withdrawn |= key in self.waiting
        self.running.discard(key)
        self.waiting = [other for other in self.waiting if other != key]
        self.decide()

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), good=st.booleans())
    def finish_load(self, data: st.DataObject, good: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(ref)
        if good:
            self.residency.loaded(ref, 0.1)
        else:
            lost = self.admission.failed(ref)
            assert {self.refs[key] for key in lost} <= {ref}
            # A pin's load may fail before their turn.
            self.withdrawn |= bool(lost)
            self.waiting = [key for key in self.waiting if key not in lost]
        self.decide()

    @invariant()
    def the_books_are_right(self) -> None:
        self.residency.check_integrity()
        assert self.admission.running == len(self.running) <= at_once(4)

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        leased = {self.refs[key] for key in self.running} - {None}
        for key in self.waiting if len(self.running) < 4 else []:
            ref = self.refs[key]
            assert ref is not None
            held = leased | self.loading | (self.pins & set(self.residency))
            own = {other for other in held if other.tenant == ref.tenant}
            limited = self.places.get(ref.tenant) is not None and own - self.pins
            waits = len(held) == 2 or limited
            assert ref in self.loading or waits, "it neither runs, loads nor has to wait"

    @invariant()
    def it_ends(self) -> None:
        """With nothing running and nothing loading, nobody is left behind."""
        if not self.running and not self.loading:
            assert not self.waiting
            assert not self.residency.wants

    @invariant()
    def every_request_is_a_hit_or_a_miss_once(self) -> None:
        counted = self.residency.hits + self.residency.misses
        assert counted <= self.asked
        if not self.waiting:
            assert counted == self.asked or self.withdrawn


TestResidency = ResidencyMachine.TestCase
TestAdmission = AdmissionMachine.TestCase
TestResidency.settings = TestAdmission.settings = settings(max_examples=60, deadline=None)


def test_a_request_is_not_passed_for_ever() -> None:
    """Two requests always overlap on the one adapter that is there; a third wants another."""
    residency = residency_of(1)
    admission = Admission(8, residency)
    admission.offer([0], asked(REFS[0]))
    admission.decide()
    residency.loaded(REFS[0], 0.1)
    assert admission.decide().run == [0]
    admission.offer([1], asked(REFS[1]))
    running, passed = 0, 0
    for key in range(2, 10 * PATIENCE):
        admission.offer([key], asked(REFS[0]))
        ran = admission.decide().run
        passed += len(ran)
        admission.withdraw([running])
        running = ran[0] if ran else running
        loads = admission.decide().loads
        if loads:
            assert loads == [(REFS[1], REFS[0])]
            break
    assert passed == PATIENCE
    residency.loaded(REFS[1], 0.1)
    assert admission.decide().run == [1]


def test_who_waits_for_a_place_does_not_hold_up_the_others() -> None:
    residency = residency_of(1)
    admission = Admission(8, residency)
    admission.offer([0], asked(REFS[0]))
    admission.decide()
    residency.loaded(REFS[0], 0.1)
    admission.decide()
    admission.offer([1], asked(REFS[1]))
    admission.offer([2], asked(None))
    admission.offer([3], asked(REFS[0]))
    assert admission.decide().run == [2, 3]
    admission.withdraw([0, 3])
    assert admission.decide().loads == [(REFS[1], REFS[0])]


def test_what_is_pinned_is_loaded_without_a_request_and_stays() -> None:
    residency = residency_of(2)
    admission = Admission(8, residency)
    residency.pin([REFS[0]])
    assert admission.decide().loads == [(REFS[0], None)]
    residency.loaded(REFS[0], 0.1)
    for number, ref in enumerate(REFS[1:]):
        admission.offer([number], asked(ref))
        [(loaded, evicted)] = admission.decide().loads
        assert (loaded, evicted) == (ref, REFS[number] if number else None)
        residency.loaded(ref, 0.1)
        admission.decide()
        admission.withdraw([number])
    residency.pin([])
    admission.offer([9], asked(REFS[1]))
    assert admission.decide().loads == [(REFS[1], REFS[0])]


def test_a_pin_whose_load_failed_is_tried_again_when_the_pins_are_told_again() -> None:
    residency = residency_of(2)
    admission = Admission(8, residency)
    residency.pin([REFS[0]])
    assert admission.decide().loads == [(REFS[0], None)]
    assert admission.failed(REFS[0]) == []
    assert admission.decide().loads == []
    residency.pin([REFS[0]])
    assert admission.decide().loads == [(REFS[0], None)]


def test_a_prefetch_waits_until_a_place_is_unused() -> None:
    residency = residency_of(1)
    admission = Admission(8, residency)
    admission.offer([0], asked(REFS[0]))
    admission.decide()
    residency.loaded(REFS[0], 0.1)
    assert admission.decide().run == [0]
    residency.want(REFS[1])
    assert admission.decide().loads == []
    admission.withdraw([0])
    assert admission.decide().loads == [(REFS[1], REFS[0])]


def test_the_latest_wishes_are_dropped_last() -> None:
    residency = residency_of(2)
    for ref in REFS:
        residency.want(ref)
    found = []
    while (prefetched := residency.prefetch(())) is not None:
        found.append(prefetched[0])
        residency.loaded(prefetched[0], 0.1)
    assert found == REFS[-2:]


@given(st.lists(st.floats(0, 100)))
def test_every_load_is_in_one_bucket_and_in_all_wider_ones(loads: list[float]) -> None:
    times = LoadTimes()
    for seconds in loads:
        times = times.add(seconds)
    assert times.seconds == pytest.approx(sum(loads))
    *told, (last, whole) = times.buckets()
    assert (last, whole) == ("+Inf", len(loads))
    for (name, count), bound in zip(told, BOUNDS, strict=True):
        assert float(name) == bound
        assert count == sum(seconds <= bound for seconds in loads)


def test_a_tenant_at_its_limit_makes_room_for_itself_only() -> None:
    residency = residency_of(4)
    admission = Admission(8, residency)
    other, first, second = REFS[0], REFS[1], REFS[2]
    for key, ref in enumerate([other, first]):
        admission.offer([key], asked(ref, places=1))
        assert admission.decide().loads == [(ref, None)]
        residency.loaded(ref, 0.1)
        admission.decide()
    admission.withdraw([0])
    admission.offer([2], asked(second, places=1))
    assert admission.decide().loads == [], "its one place is in use, and another's is not its own"
    admission.withdraw([1])
    assert admission.decide().loads == [(second, first)]


def test_a_tenants_second_adapter_is_not_passed_for_ever_by_its_first() -> None:
    residency = residency_of(4)
    admission = Admission(8, residency)
    admission.offer([0], asked(REFS[1], places=1))
    admission.decide()
    residency.loaded(REFS[1], 0.1)
    admission.decide()
    admission.offer([1], asked(REFS[2], places=1))
    for key in range(2, 10 * PATIENCE):
        admission.offer([key], asked(REFS[1], places=1))
        ran = admission.decide().run
        admission.withdraw([key - 1 if key > 2 else 0])
        if loads := admission.decide().loads:
            assert loads == [(REFS[2], REFS[1])]
            return
        assert ran == [key]
    raise AssertionError("it never came in")


def test_pins_leave_a_tenant_one_place_beside_them() -> None:
    residency = residency_of(4)
    residency.pin([REFS[1]])
    admission = Admission(8, residency)
    admission.offer([0], asked(REFS[2], places=1))
    assert {ref for ref, _ in admission.decide().loads} >= {REFS[2]}
