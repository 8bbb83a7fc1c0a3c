"""Leases against every order of requests and deletions: what is needed stays, what is not goes."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters_store import RevisionRef
from service.adapters.leases import Lease, Leases

REFS = [RevisionRef("acme", "desk", f"{n:064x}") for n in range(3)]


class LeaseMachine(RuleBasedStateMachine):
    """Names come and go; requests read them at one moment and learn what they read at another."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases()
        self.named: set[RevisionRef] = set(REFS)
        self.reading: dict[Lease, set[RevisionRef]] = {}
        self.holding: dict[Lease, RevisionRef] = {}
        self.doomed: list[RevisionRef] = []

    @rule()
    def ask(self) -> None:
        """Begin a request, whose read may see whatever has a name now."""
        self.reading[self.leases.open()] = set(self.named)

    @precondition(lambda self: any(self.reading.values()))
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([lease for lease, seen in self.reading.items() if seen]))
        ref = data.draw(st.sampled_from(sorted(self.reading.pop(lease))))
        lease.hold(ref)
        self.holding[lease] = ref

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), base=st.booleans())
    def find_none(self, data: st.DataObject, base: bool) -> None:
        lease = data.draw(st.sampled_from(list(self.reading)))
        del self.reading[lease]
        lease.hold(None) if base else lease.close()

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), times=st.integers(1, 2))
    def end(self, data: st.DataObject, times: int) -> None:
        lease = data.draw(st.sampled_from(list(self.holding)))
        del self.holding[lease]
        for _ in range(times):
            lease.close()

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(sorted(self.named)))
        self.named.remove(ref)
        self.doomed.append(ref)

        def free() -> None:
            # What a request of before may still come to need is never let go.
            self.doomed.remove(ref)

        self.leases.when_free(ref, free)

    @precondition(lambda self: len(self.named) < len(REFS) and not self.doomed)
    @rule()
    def publish_again(self) -> None:
        self.named = set(REFS)

    @invariant()
    def what_is_needed_is_held_and_nothing_else_waits(self) -> None:
        needed = set(self.holding.values())
        for ref in REFS:
            possible = any(ref in seen for seen in self.reading.values())
            assert self.leases.needed(ref) == (ref in needed)
            assert self.leases.held(ref) == (ref in needed or bool(self.reading))
            if ref not in self.named:
                assert (ref in self.doomed) >= (ref in needed or possible)
        if not self.reading and not self.holding:
            assert not self.doomed
            assert len(self.leases) == 0


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_lease_that_nobody_has_any_more_has_ended() -> None:
    leases, gone = Leases(), []
    lease = leases.open()
    lease.hold(REFS[0])
    leases.when_free(REFS[0], lambda: gone.append(REFS[0]))
    assert gone == []
    del lease
    assert gone == [REFS[0]]
