"""Examples as token rows, ready to train on. Pure."""

from collections.abc import Sequence

import msgspec

from service.errors import BadRequest
from service.rendering.examples import Example
from service.rendering.renderer import Rendered, Renderer
from service.training.trainer import TrainingError, TrainingTask

IGNORED = -100
"""The label of a token that carries no loss."""


class Row(msgspec.Struct, frozen=True):
    """One example: its tokens, and for each the token to learn or IGNORED."""

    input_ids: list[int]
    labels: list[int]

    @property
    def teaches(self) -> bool:
        """Whether a token carries loss."""
        return any(label != IGNORED for label in self.labels)


class Rows(msgspec.Struct, frozen=True):
    """A task's examples; those that teach nothing are left out and counted."""

    train: list[Row]
    validation: list[Row]
    truncated: int
    dropped: int


def render(renderer: Renderer, task: TrainingTask) -> Rows:
    """Render a task's examples. Raises TrainingError if one cannot be, or nothing is left."""
    limit = task.spec.max_length
    train, cut, dropped = _render(renderer, task.train, limit, "training_file")
    validation, cut_too, dropped_too = _render(renderer, task.validation, limit, "validation_file")
    if not train:
        raise nothing_to_learn(limit)
    return Rows(train, validation, cut + cut_too, dropped + dropped_too)


def _render(
    renderer: Renderer, examples: Sequence[Example], limit: int, param: str
) -> tuple[list[Row], int, int]:
    rows, truncated = [], 0
    for number, example in enumerate(examples, 1):
        try:
            row, cut = render_row(renderer, example, limit)
        except BadRequest as fault:
            raise unrenderable(number, fault.message, param) from None
        truncated += cut
        if row.teaches:
            rows.append(row)
    return rows, truncated, len(examples) - len(rows)


def render_row(renderer: Renderer, example: Example, limit: int) -> tuple[Row, bool]:
    """Give an example's row, and whether it was cut. Raises RenderingError."""
    rendered = renderer.example(example, limit)
    return row_of(rendered), rendered.truncated


def row_of(rendered: Rendered) -> Row:
    """Label the tokens that carry loss."""
    labels = [
        token if bit else IGNORED
        for token, bit in zip(rendered.input_ids, rendered.loss_mask, strict=True)
    ]
    # Nothing comes before the first token, so nothing can predict it.
    labels[:1] = [IGNORED] * len(labels[:1])
    return Row(rendered.input_ids, labels)


def nothing_to_learn(limit: int) -> TrainingError:
    """Say that no example is left."""
    message = f"No example has a token to learn within max_length ({limit} tokens)"
    return TrainingError(message, "no_trainable_examples", "training_file")


def unrenderable(number: int, reason: str, param: str) -> TrainingError:
    """Say which example of which file, counted from 1, cannot be trained on."""
    message = f"Example {number} cannot be rendered: {reason}"
    return TrainingError(message, "invalid_training_file", param)


def micro_batch(batch_size: int, longest: int, budget: int) -> int:
    """Choose how many rows go through the model at once: the most that divide the batch.

    Padded to the longest row they stay within `budget` tokens, if a single one does.
    """
    fitting = (n for n in range(batch_size, 1, -1) if batch_size % n == 0 and n * longest <= budget)
    return next(fitting, 1)
