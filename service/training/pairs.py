"""Preferences as pairs of token rows. Pure."""

from collections.abc import Sequence

import msgspec

from service.errors import BadRequest
from service.rendering.examples import Example, PreferenceExample
from service.rendering.renderer import Renderer
from service.rendering.template import RenderingError
from service.training.rows import Row, nothing_to_learn, render_row, unrenderable
from service.training.trainer import TrainingTask


class Pair(msgspec.Struct, frozen=True):
    """Two answers to one prompt, of which the first is preferred."""

    preferred: Row
    other: Row

    @property
    def teaches(self) -> bool:
        """Whether both answers have a token that carries loss."""
        return self.preferred.teaches and self.other.teaches

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of both answers, each with its prompt."""
        return len(self.preferred.input_ids), len(self.other.input_ids)


class Pairs(msgspec.Struct, frozen=True):
    """A task's pairs; those of which an answer lies beyond `max_length` are left out."""

    train: list[Pair]
    validation: list[Pair]
    truncated: int
    dropped: int

    @property
    def longest(self) -> int:
        """Tokens of the longest answer with its prompt."""
        return max(max(pair.lengths) for pair in [*self.train, *self.validation])


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
        try:
            pair, cut = render_pair(renderer, example, limit)
        except BadRequest as fault:
            raise unrenderable(number, fault.message, param) from None
        truncated += cut
        if pair.teaches:
            pairs.append(pair)
    return pairs, truncated


def render_pair(renderer: Renderer, example: Example, limit: int) -> tuple[Pair, bool]:
    """Give an example's pair, and whether it was cut. Raises BadRequest."""
    if not isinstance(example, PreferenceExample):
        raise RenderingError("it is no preference")
    preferred, cut = render_row(renderer, example.preferred, limit)
    other, cut_too = render_row(renderer, example.other, limit)
    return Pair(preferred, other), cut or cut_too
