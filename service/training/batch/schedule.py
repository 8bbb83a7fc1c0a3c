"""How the learning rate and the saving go with the steps of one task. Pure."""

import msgspec

from service.training.spec import TrainingSpec, warmup_steps


class Schedule(msgspec.Struct, frozen=True):
    """Linear, with warm-up: transformers' `get_linear_schedule_with_warmup`."""

    learning_rate: float
    warmup_steps: int
    total_steps: int

    def rate(self, step: int) -> float:
        """Tell the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step / max(1, self.warmup_steps))
        left = (self.total_steps - step) / max(1, self.total_steps - self.warmup_steps)
        return self.learning_rate * max(0.0, left)


def schedule(spec: TrainingSpec, total_steps: int) -> Schedule:
    """Spell out a spec's schedule."""
    warmup = warmup_steps(spec.warmup_ratio, total_steps)
    return Schedule(spec.learning_rate, warmup, total_steps)
