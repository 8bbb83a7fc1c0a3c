"""The schedule is transformers' own, and says when things are due."""

import pytest

torch = pytest.importorskip("torch")

from service.training.batch.schedule import Schedule, schedule  # noqa: E402
from service.training.spec import TrainingSpec  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (1, 8), (3, 10), (10, 10), (1, 1), (0, 1)])
def test_rates_are_those_of_transformers(warmup: int, total: int) -> None:
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    theirs = get_linear_schedule_with_warmup(optimizer, warmup, total)
    ours = Schedule(3e-4, warmup, total)
    for step in range(total + 1):
        assert ours.rate(step) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        theirs.step()


def test_warm_up_is_rounded_up_as_the_solo_trainer_does() -> None:
    assert schedule(TrainingSpec(warmup_ratio=0.03), 8).warmup_steps == 1
    assert schedule(TrainingSpec(warmup_ratio=0.0), 8).warmup_steps == 0


@pytest.mark.parametrize("total", [1, 2, 5])
def test_something_is_always_learned(total: int) -> None:
    made = schedule(TrainingSpec(warmup_ratio=1.0), total)
    assert made.rate(total - 1) > 0
