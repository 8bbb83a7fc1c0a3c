"""What is packed into a row, for whom, and in which order a task goes through its examples."""

from collections import Counter, deque
from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.training.batch.order import Order
from service.training.batch.packing import QUANTUM, Packer, Waiting

lengths = st.lists(st.integers(1, 40), max_size=12)


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    """Tasks of a few tenants, each with examples."""
    tenants = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
    return [Waiting(f"{t}{i}", t, draw(lengths)) for i, t in enumerate(tenants)]


def rows(packer: Packer, queue: list[Waiting], budget: int) -> list[dict[str, int]]:
    """Pack until nobody waits."""
    left = {one.task: list(one.lengths) for one in queue}
    packed = []
    while any(left.values()):
        counts = packer.fill([Waiting(q.task, q.tenant, left[q.task]) for q in queue], budget)
        packed.append(counts)
        for task, count in counts.items():
            assert 0 < count <= len(left[task])
            del left[task][:count]
    return packed


@given(queues(), st.integers(1, 60))
def test_everything_is_packed_in_rows_within_the_budget_or_of_a_single_example(queue, budget):
    at = {one.task: list(one.lengths) for one in queue}
    for counts in rows(Packer(), queue, budget):
        tokens = sum(sum(at[task][:count]) for task, count in counts.items())
        assert tokens <= budget or sum(counts.values()) == 1
        for task, count in counts.items():
            del at[task][:count]


@given(queues(), st.integers(1, 60))
def test_a_row_has_no_room_left_for_whoever_still_waits(queue, budget):
    counts = Packer().fill(queue, budget)
    used = sum(sum(q.lengths[: counts.get(q.task, 0)]) for q in queue)
    left = [
        q.lengths[counts.get(q.task, 0)] for q in queue if len(q.lengths) > counts.get(q.task, 0)
    ]
    assert all(used + length > budget for length in left)


@given(lengths, st.integers(1, 60), st.data())
def test_alone_a_tasks_rows_depend_on_nothing_that_was_before(own, budget, data):
    queue = [Waiting("a0", "a", own)]
    used = Packer()
    rows(used, data.draw(queues()), budget)
    assert rows(used, queue, budget) == rows(Packer(), queue, budget)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), min_size=2),
    st.integers(1, 80) | st.integers(600, 800),
    st.randoms(use_true_random=False),
)
def test_tenants_who_always_wait_get_equal_shares_however_many_tasks_they_have(
    tasks, budget, random
):
    packer, given = Packer(), Counter(dict.fromkeys(tasks, 0))
    queue = {
        f"{tenant}{i}": [random.randint(10, 30) for _ in range(400)]
        for tenant, count in tasks.items()
        for i in range(count)
    }
    for _ in range(8):
        waiting = [Waiting(name, name[0], left[:80]) for name, left in queue.items()]
        for task, count in packer.fill(waiting, budget).items():
            given[task[0]] += sum(queue[task][:count])
            del queue[task][:count]
    # One row may be closed to whoever's next example is too long for what is left of it.
    assert max(given.values()) - min(given.values()) <= min(budget, QUANTUM) + 2 * 30


def endless(random: Random) -> deque[int]:
    """Make the lengths of examples without end: what is taken is there again."""
    return deque(random.randint(5, 20) for _ in range(200))


weights = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 4.0])


@given(
    st.dictionaries(st.sampled_from("abcd"), weights, min_size=2),
    st.integers(20, 200) | st.integers(600, 900),
    st.integers(1, 64) | st.just(QUANTUM),
    st.integers(0, 20),
    st.randoms(use_true_random=False),
)
def test_over_any_window_shares_are_as_the_weights_within_a_quantum(
    tenants, budget, quantum, skipped, random
):
    """For each unit of weight, whoever waits all the time was given the same."""
    packer, given = Packer(quantum), Counter()
    queue = {tenant: endless(random) for tenant in tenants}
    for row in range(skipped + 25):
        if row == skipped:
            given.clear()
        waiting = [
            Waiting(name, name, list(islice(left, 200)), tenant_weight=tenants[name])
            for name, left in queue.items()
        ]
        for task, count in packer.fill(waiting, budget).items():
            given[task] += sum(islice(queue[task], count))
            queue[task].rotate(-count)
    each = [given[name] / weight for name, weight in tenants.items()]
    # A turn is a quantum and what its last example has more; rows are closed to who is too long;
    # and a window begins and ends in the middle of the turns.
    turn = (min(budget, quantum) + 20) / min(tenants.values())
    assert max(each) - min(each) <= 2 * (turn + 20 / min(tenants.values()))


@given(weights, st.integers(100, 400), st.randoms(use_true_random=False))
def test_a_tenants_tasks_share_what_is_the_tenants_by_their_weights(weight, budget, random):
    packer, given = Packer(16), Counter()
    queue = {name: endless(random) for name in ("a0", "a1", "b0")}
    for _ in range(40):
        waiting = [
            Waiting(name, name[0], list(islice(left, 80)), weight=weight if name == "a1" else 1.0)
            for name, left in queue.items()
        ]
        for task, count in packer.fill(waiting, budget).items():
            given[task] += sum(islice(queue[task], count))
            queue[task].rotate(-count)
    slack = 2 * (16 + 2 * 20)
    assert abs(given["a0"] + given["a1"] - given["b0"]) <= slack
    assert abs(given["a1"] / weight - given["a0"]) <= slack / min(weight, 1.0)


@given(st.integers(1, 50), st.integers(1, 50))
def test_who_wanted_little_saves_nothing_up(small, budget):
    packer = Packer()
    for _ in range(20):
        packer.fill([Waiting("a0", "a", [1]), Waiting("b0", "b", [small] * 200)], budget)
    given = Counter()
    queue = {"a0": 0, "b0": 0}
    for _ in range(20):
        waiting = [Waiting(name, name[0], [small] * 200) for name in queue]
        given += Counter(packer.fill(waiting, budget))
    assert abs(given["a0"] - given["b0"]) * small <= budget + 2 * small


orders = st.builds(
    Order, st.integers(1, 60), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**63)
)


@given(orders)
def test_each_epoch_visits_every_example_once_in_batches_of_the_asked_size(order):
    steps = [order.batch(step) for step in range(order.total_steps)]
    for epoch in range(order.n_epochs):
        within = steps[epoch * order.steps_per_epoch :][: order.steps_per_epoch]
        assert sorted(index for batch in within for index in batch) == list(range(order.examples))
        assert {len(batch) for batch in within[:-1]} <= {order.batch_size}
        assert 0 < len(within[-1]) <= order.batch_size


@given(orders)
def test_no_two_visits_share_a_dropout_seed(order):
    seeds = [seed for step in range(order.total_steps) for seed in order.dropout_seeds(step)]
    assert len(set(seeds)) == len(seeds) == order.examples * order.n_epochs
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_order_is_that_of_the_seed_alone_and_never_changes():
    order = Order(examples=8, batch_size=3, n_epochs=2, seed=5)
    assert [order.batch(step) for step in range(6)] == PINNED
    assert order.batch(4) == Order(8, 3, 9, 5).batch(4)
    assert order.batch(0) != Order(8, 3, 2, 6).batch(0)


PINNED = [(6, 7, 3), (2, 1, 0), (4, 5), (1, 4, 6), (7, 3, 0), (5, 2)]
"""Written down: a run that is resumed by a later version goes on in the same order."""
