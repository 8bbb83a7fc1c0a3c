"""How quick training was: lately, and for each method alone."""

from service.runtime.speeds import REMEMBERED, Speeds


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert Speeds().usual() == {}


def test_each_method_has_its_median() -> None:
    speeds = Speeds()
    for speed in (900.0, 100.0, 110.0):
        speeds.note("supervised", speed)
    speeds.note("dpo", 7.0)
    assert speeds.usual() == {"supervised": 110.0, "dpo": 7.0}


def test_what_was_long_ago_is_forgotten() -> None:
    speeds = Speeds()
    for speed in [1.0] * 500 + [9.0] * REMEMBERED:
        speeds.note("supervised", speed)
    assert speeds.usual() == {"supervised": 9.0}
