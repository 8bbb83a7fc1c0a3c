"""Places go to who has the least for its weight, and never to and fro."""

from hypothesis import given
from hypothesis import strategies as st

from service.jobs.turns import Load, gives_way

WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 4.0])


@st.composite
def loads(draw: st.DrawFn) -> list[Load]:
    """Tenants with places, and some that wait for one."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    running = st.integers(0, 6)
    return [Load(name, draw(WEIGHTS), draw(running), draw(st.booleans())) for name in names]


def claimed(tenants: list[Load], data: st.DataObject) -> Load:
    """Choose who is claimed for next: one of those with the least for their weight."""
    waiting = [load for load in tenants if load.waits]
    least = min(load.running / load.weight for load in waiting)
    equals = [load for load in waiting if load.running / load.weight == least]
    return data.draw(st.sampled_from(equals))


def moved(tenants: list[Load], giver: str, taker: Load) -> list[Load]:
    """Let a place go from one to the other."""
    change = {giver: -1}
    change[taker.tenant] = change.get(taker.tenant, 0) + 1
    return [
        Load(
            one.tenant,
            one.weight,
            one.running + change.get(one.tenant, 0),
            one.waits or one.tenant == giver,
        )
        for one in tenants
    ]


@given(loads(), st.data())
def test_places_come_to_rest_though_everybody_waits_for_more(
    tenants: list[Load], data: st.DataObject
) -> None:
    """The worst case: who was given a place wants another, and who gave one wants it back."""
    seen = []
    while (giver := gives_way(tenants)) is not None:
        state = tuple(load.running for load in tenants)
        assert state not in seen
        seen.append(state)
        tenants = moved(tenants, giver, claimed(tenants, data))


@given(loads(), st.data())
def test_nobodys_only_job_makes_room_and_who_makes_room_keeps_no_less(
    tenants: list[Load], data: st.DataObject
) -> None:
    giver = gives_way(tenants)
    if giver is None:
        return
    has = {load.tenant: load for load in tenants}[giver]
    assert has.running > 1
    gets = claimed(tenants, data)
    assert (has.running - 1) / has.weight >= (gets.running + 1) / gets.weight


@given(st.integers(2, 16))
def test_a_newcomer_of_equal_weight_has_a_place_where_one_tenant_holds_several(
    places: int,
) -> None:
    newcomer = Load("b", 1.0, 0, waits=True)
    assert gives_way([Load("a", 1.0, places, waits=True), newcomer]) == "a"
    others = [Load(f"c{n}", 1.0, 1, waits=True) for n in range(places)]
    assert gives_way([*others, newcomer]) is None, "each is at its turn"


def test_nobody_makes_room_for_nobody() -> None:
    assert gives_way([]) is None
    assert gives_way([Load("a", 1.0, 5, waits=False)]) is None
    assert gives_way([Load("a", 1.0, 0, waits=True)]) is None
