"""Preferences as pairs of token rows. Pure."""

from collections.abc import Sequence

import msgspec

from service.errors import BadRequest
from service.rendering.examples import Example, PreferenceExample
from service.rendering.renderer import Renderer
from service.training.rows import Row, nothing_to_learn, row_of, unrenderable
from service.training.trainer import TrainingTask


class Pair(msgspec.Struct, frozen=True):
    """Two answers to one prompt, of which the first is preferred."""

    preferred: Row
    other: Row


class Pairs(msgspec.Struct, frozen=True):
    """A task's pairs; those of which an answer lies beyond `max_length` are left out."""

    train: list[Pair]
    validation: list[Pair]
    truncated: int
    dropped: int

    @property
    def longest(self) -> int:
        """Tokens of the longest answer with its prompt."""
        pairs = [*self.train, *self.validation]
        return max(len(row.input_ids) for pair in pairs for row in (pair.preferred, pair.other))


def render_pairs(renderer: Renderer, task: TrainingTask) -> Pairs:
    """Render a task's preferences. Raises TrainingError if one cannot be, or nothing is left."""
    limit = task.spec.max_length
    train, cut = _render(renderer, task.train, limit, "training_file")
    validation, cut_too = _render(renderer, task.validation, limit, "validation_file")
    if not train:
        raise nothing_to_learn(limit)
    given = len(task.train) + len(task.validation)
    return Pairs(train, validation, cut + cut_too, given - len(train) - len(validation))


def _render(
    renderer: Renderer, examples: Sequence[Example], limit: int, param: str
) -> tuple[list[Pair], int]:
    pairs, truncated = [], 0
    for number, example in enumerate(examples, 1):
        if not isinstance(example, PreferenceExample):
            raise unrenderable(number, "it is no preference", param)
        try:
            preferred = renderer.example(example.preferred, limit)
            other = renderer.example(example.other, limit)
        except BadRequest as fault:
            raise unrenderable(number, fault.message, param) from None
        truncated += preferred.truncated or other.truncated
        pair = Pair(row_of(preferred), row_of(other))
        if pair.preferred.teaches and pair.other.teaches:
            pairs.append(pair)
    return pairs, truncated
