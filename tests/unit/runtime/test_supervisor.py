"""What the supervisor starts, and how long it waits before it starts it again."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from service.runtime.backoff import Backoff
from service.runtime.supervisor import runtime_commands

lives = st.lists(st.floats(0, 100), min_size=1, max_size=30)


def delays(lived: list[float], backoff: Backoff) -> list[float]:
    found: list[float] = []
    for life in lived:
        found.append(backoff.next(found[-1] if found else None, life))
    return found


def test_the_delay_doubles_to_its_limit_and_a_healthy_life_resets_it() -> None:
    assert delays([0, 0, 0, 0, 0, 0, 0, 0, 29.9, 30.0, 0], Backoff()) == [
        0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 0.2, 0.4,
    ]  # fmt: skip


@given(lives)
def test_a_delay_stays_within_its_limits_and_shrinks_only_after_a_healthy_life(
    lived: list[float],
) -> None:
    backoff = Backoff()
    found = delays(lived, backoff)

    assert all(backoff.first <= delay <= backoff.longest for delay in found)
    for before, after, life in zip(found, found[1:], lived[1:], strict=False):
        assert after >= before or life >= backoff.healthy


def test_serve_runs_one_runtime_for_both_or_one_for_each_with_this_python() -> None:
    begin = [sys.executable, "-m", "service", "runtime"]
    assert runtime_commands("resident") == {"resident": [*begin, "resident"]}
    assert runtime_commands("vllm") == {
        "training": [*begin, "training"],
        "generation": [*begin, "generation"],
    }
