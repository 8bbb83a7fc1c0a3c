"""What training makes of examples, without training: tokens, what is cut or left out, steps. Pure.

    count = counter(renderer, spec)
    for example in examples:
        total.add(count(example))
    steps, tokens = order_of(spec, total.kept).total_steps, trained_tokens(spec, total)

It renders as the trainers do, one example at a time, so that a file of any size can be counted.
"""

import heapq
from collections.abc import Callable

import msgspec

from service.rendering.examples import Example
from service.rendering.renderer import Renderer
from service.training.batch.order import order_of
from service.training.pairs import render_pair
from service.training.prompts import grader_of, no_room_to_answer, render_prompt
from service.training.rows import nothing_to_learn, render_row
from service.training.spec import MAX_BATCH, ReinforcementSpec, TrainingSpec
from service.training.trainer import TrainingError


class Count(msgspec.Struct, frozen=True):
    """One example, as it is trained on."""

    tokens: int
    """Of both answers of a preference; of a prompt alone, where answers are sampled."""
    longest: int
    """Of its sequences, sampled answers included."""
    cut: bool
    kept: bool
    """Whether it is not left out."""


class Total(msgspec.Struct):
    """Of some examples; those that are left out count as dropped, and as cut, and no more."""

    kept: int = 0
    tokens: int = 0
    cut: int = 0
    dropped: int = 0
    largest: list[int] = []
    """The tokens of the MAX_BATCH longest ones, as a heap."""

    @property
    def longest(self) -> int:
        """Tokens of the longest, 0 if there is none."""
        return max(self.largest, default=0)

    def most_at_once(self, examples: int) -> int:
        """Tokens of so many, at the most."""
        return sum(heapq.nlargest(examples, self.largest))

    def add(self, one: Count) -> None:
        """Add an example."""
        self.cut += one.cut
        if not one.kept:
            self.dropped += 1
            return
        self.kept += 1
        self.tokens += one.tokens
        if len(self.largest) < MAX_BATCH:
            heapq.heappush(self.largest, one.longest)
        else:
            heapq.heappushpop(self.largest, one.longest)


def counter(renderer: Renderer, spec: TrainingSpec) -> Callable[[Example], Count]:
    """Give what counts an example, and raises BadRequest or GraderFault for one that is unfit.

    Raises TrainingError.
    """
    limit = spec.max_length

    def row(example: Example) -> Count:
        made, cut = render_row(renderer, example, limit)
        return Count(len(made.input_ids), len(made.input_ids), cut, made.teaches)

    def pair(example: Example) -> Count:
        made, cut = render_pair(renderer, example, limit)
        return Count(sum(made.lengths), max(made.lengths), cut, made.teaches)

    if spec.method == "reinforcement":
        return _prompts(renderer, spec)
    return pair if spec.method == "dpo" else row


def _prompts(renderer: Renderer, spec: TrainingSpec) -> Callable[[Example], Count]:
    chosen = sampling(spec)
    grade = grader_of(chosen)

    def prompt(example: Example) -> Count:
        length = len(render_prompt(renderer, example, grade).input_ids)
        longest = length + chosen.max_completion_tokens
        return Count(length, longest, cut=False, kept=longest <= spec.max_length)

    return prompt


def trained_tokens(spec: TrainingSpec, train: Total) -> int:
    """Count all that goes through training to its last step, padding not.

    With `reinforcement` at most: no answer is longer than its limit, nor is a prompt that fills an
    epoch's last batch up longer than the longest.
    """
    if spec.method != "reinforcement":
        return spec.n_epochs * train.tokens
    chosen = sampling(spec)
    prompts = order_of(spec, train.kept).steps_per_epoch * spec.batch_size
    filling = (prompts - train.kept) * (train.longest - chosen.max_completion_tokens)
    once = train.tokens + filling + prompts * chosen.max_completion_tokens
    return spec.n_epochs * chosen.completions * once


def none_left(spec: TrainingSpec) -> TrainingError:
    """Say that every example is left out."""
    if spec.method == "reinforcement":
        return no_room_to_answer(spec.max_length - sampling(spec).max_completion_tokens)
    return nothing_to_learn(spec.max_length)


def sampling(spec: TrainingSpec) -> ReinforcementSpec:
    """Give what a task of the method `reinforcement` has."""
    assert spec.reinforcement is not None
    return spec.reinforcement
