"""Residency and admission against every order of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters_store import RevisionRef
from service.serving.admission import PATIENCE, Admission
from service.serving.residency import Load, Ready, Residency

REFS = [RevisionRef("acme", f"a{n}", f"{n:064x}") for n in range(6)]


class ResidencyMachine(RuleBasedStateMachine):
    """Keeps its own simple books beside the residency's."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = Residency(3)
        self.pins: dict[RevisionRef, int] = {}
        self.loading: set[RevisionRef] = set()
        self.draining = False

    @rule(ref=st.sampled_from(REFS))
    def acquire(self, ref: RevisionRef) -> None:
        order = list(self.residency)
        match self.residency.acquire(ref):
            case Ready():
                assert ref in self.pins
                assert ref not in self.loading
                self.pins[ref] += 1
            case Load(evict):
                assert ref not in self.pins
                assert ref not in self.loading
                assert (evict is not None) == (len(self.pins) + len(self.loading) == 3)
                if evict is not None:
                    assert self.pins.pop(evict) == 0
                    older = order[: order.index(evict)]
                    assert self.draining or all(self.pins[other] for other in older)
                self.loading.add(ref)
            case _:
                full = len(self.pins) + len(self.loading) == 3 and all(self.pins.values())
                assert ref in self.loading or full or self.draining

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from([ref for ref, pins in self.pins.items() if pins]))
        self.residency.release(ref)
        self.pins[ref] -= 1

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), good=st.booleans())
    def finish_load(self, data: st.DataObject, good: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(ref)
        if good:
            self.residency.loaded(ref)
            self.pins[ref] = 0
        else:
            self.residency.failed(ref)

    @rule(wanted=st.booleans())
    def drain(self, wanted: bool) -> None:
        self.residency.drain(wanted)
        self.draining = wanted

    @invariant()
    def the_books_are_right(self) -> None:
        self.residency.check_integrity()
        assert set(self.residency) == set(self.pins)


class AdmissionMachine(RuleBasedStateMachine):
    """Requests come, run, end and are cancelled; loads succeed and fail."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = Residency(2)
        self.admission = Admission(4, 8, self.residency)
        self.number = 0
        self.refs: dict[int, RevisionRef | None] = {}
        self.waiting: list[int] = []
        self.running: set[int] = set()
        self.loading: set[RevisionRef] = set()

    def decide(self) -> None:
        decision = self.admission.decide()
        for key in decision.run:
            self.waiting.remove(key)
            self.running.add(key)
            assert self.refs[key] is None or self.refs[key] in set(self.residency)
        for ref, evict in decision.loads:
            assert evict is None or evict not in {self.refs[key] for key in self.running}
            self.loading.add(ref)

    @rule(ref=st.sampled_from([None, *REFS[:4]]), n=st.integers(1, 3))
    def offer(self, ref: RevisionRef | None, n: int) -> None:
        keys = list(range(self.number, self.number + n))
        self.number += n
        full = self.admission.waiting >= 8
        if self.admission.offer(keys, ref):
            self.refs |= dict.fromkeys(keys, ref)
            self.waiting += keys
            self.decide()
        else:
            assert full
        assert self.admission.waiting <= 8

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([*sorted(self.running), *self.waiting]))
        self.admission.withdraw([key])
        self.running.discard(key)
        self.waiting = [other for other in self.waiting if other != key]
        self.decide()

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), good=st.booleans())
    def finish_load(self, data: st.DataObject, good: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(ref)
        if good:
            self.residency.loaded(ref)
        else:
            lost = self.admission.failed(ref)
            assert {self.refs[key] for key in lost} <= {ref}
            self.waiting = [key for key in self.waiting if key not in lost]
        self.decide()

    @invariant()
    def the_books_are_right(self) -> None:
        self.residency.check_integrity()
        assert self.admission.running == len(self.running) <= 4

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        pinned = {self.refs[key] for key in self.running} - {None}
        for key in self.waiting if len(self.running) < 4 else []:
            ref = self.refs[key]
            assert ref is not None
            held = pinned | self.loading
            assert ref in self.loading or len(held) == 2, "it neither runs, loads nor has to wait"

    @invariant()
    def it_ends(self) -> None:
        """With nothing running and nothing loading, nobody is left behind."""
        if not self.running and not self.loading:
            assert not self.waiting


TestResidency = ResidencyMachine.TestCase
TestAdmission = AdmissionMachine.TestCase
TestResidency.settings = TestAdmission.settings = settings(max_examples=60, deadline=None)


def test_a_request_is_not_passed_for_ever() -> None:
    """Two requests always overlap on the one adapter that is there; a third wants another."""
    residency = Residency(1)
    admission = Admission(8, 1000, residency)
    admission.offer([0], REFS[0])
    admission.decide()
    residency.loaded(REFS[0])
    assert admission.decide().run == [0]
    admission.offer([1], REFS[1])
    running, passed = 0, 0
    for key in range(2, 10 * PATIENCE):
        admission.offer([key], REFS[0])
        ran = admission.decide().run
        passed += len(ran)
        admission.withdraw([running])
        running = ran[0] if ran else running
        loads = admission.decide().loads
        if loads:
            assert loads == [(REFS[1], REFS[0])]
            break
    assert passed == PATIENCE
    residency.loaded(REFS[1])
    assert admission.decide().run == [1]


def test_who_waits_for_a_place_does_not_hold_up_the_others() -> None:
    residency = Residency(1)
    admission = Admission(8, 1000, residency)
    admission.offer([0], REFS[0])
    admission.decide()
    residency.loaded(REFS[0])
    admission.decide()
    admission.offer([1], REFS[1])
    admission.offer([2], None)
    admission.offer([3], REFS[0])
    assert admission.decide().run == [2, 3]
    admission.withdraw([0, 3])
    assert admission.decide().loads == [(REFS[1], REFS[0])]
