"""Prompts as token rows, and whether a grader can grade their answers. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.errors import BadRequest
from service.rendering.examples import Example, PromptExample
from service.rendering.renderer import Renderer
from service.rendering.template import RenderingError
from service.training.graders.faults import GraderFault
from service.training.graders.grading import Grade, compile_grader
from service.training.rows import unrenderable
from service.training.spec import ReinforcementSpec
from service.training.trainer import TrainingError, TrainingTask


class Prompt(msgspec.Struct, frozen=True):
    """What an answer is sampled for, and what the grader may know."""

    input_ids: list[int]
    item: Mapping[str, Any]


class Prompts(msgspec.Struct, frozen=True):
    """A task's prompts; those that leave no room for an answer are left out."""

    train: list[Prompt]
    validation: list[Prompt]
    dropped: int
    grade: Grade

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.input_ids) for prompt in [*self.train, *self.validation])


def render_prompts(renderer: Renderer, task: TrainingTask, chosen: ReinforcementSpec) -> Prompts:
    """Render a task's prompts. Raises TrainingError if one cannot be graded, or nothing is left."""
    grade = grader_of(chosen)
    room = task.spec.max_length - chosen.max_completion_tokens
    train = _render(renderer, task.train, grade, "training_file")
    validation = _render(renderer, task.validation, grade, "validation_file")
    fitting = [[p for p in prompts if len(p.input_ids) <= room] for prompts in (train, validation)]
    if not fitting[0]:
        raise no_room_to_answer(room)
    dropped = len(train) + len(validation) - sum(map(len, fitting))
    return Prompts(fitting[0], fitting[1], dropped, grade)


def _render(
    renderer: Renderer, examples: Sequence[Example], grade: Grade, param: str
) -> list[Prompt]:
    prompts = []
    for number, example in enumerate(examples, 1):
        try:
            prompts.append(render_prompt(renderer, example, grade))
        except BadRequest as fault:
            raise unrenderable(number, fault.message, param) from None
        except GraderFault as fault:
            raise ungradable(number, fault.message, param) from None
    return prompts


def ungradable(number: int, reason: str, param: str) -> TrainingError:
    """Say which example, counted from 1, cannot be graded."""
    message = f"Example {number} cannot be graded: {reason}"
    return TrainingError(message, "invalid_training_file", param)


def render_prompt(renderer: Renderer, example: Example, grade: Grade) -> Prompt:
    """Give an example's prompt. Raises BadRequest, and GraderFault if it cannot be graded."""
    if not isinstance(example, PromptExample):
        raise RenderingError("it does not end with a user's turn")
    input_ids = renderer.prompt(example.messages, example.tools)
    grade("", example.item)
    return Prompt(input_ids, example.item)


def grader_of(chosen: ReinforcementSpec) -> Grade:
    """Compile a task's grader. Raises TrainingError."""
    try:
        return compile_grader(chosen.grader, "method.reinforcement.grader")
    except GraderFault as fault:
        raise TrainingError(fault.message, "invalid_grader", fault.param) from None


def no_room_to_answer(room: int) -> TrainingError:
    """Say that no example is left."""
    message = f"No prompt leaves room for an answer: max_length allows it {room} tokens"
    return TrainingError(message, "no_trainable_examples", "training_file")
