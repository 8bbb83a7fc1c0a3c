"""The solo trainers of the other methods, and tasks for them. Importing this is cheap."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from service.rendering.examples import ChatExample, Example, Message, PreferenceExample
from service.rendering.examples import PromptExample as Prompt
from service.rendering.renderer import Renderer
from service.training.graders.shapes import Grader, TextSimilarityGrader
from service.training.spec import DpoSpec, ReinforcementSpec
from service.training.trainer import Trainer, TrainingEvent, TrainingOutcome, TrainingTask
from tests.unit.training.real import loaded_base

Held = Literal["nf4", "none"]

ANSWER = "{{ sample.output_text }}"
EASY = TextSimilarityGrader("easy", ANSWER, "eeee", "fuzzy_match")
"""Rewards what the bundled base seldom says, a little at a time."""
QUICK = ReinforcementSpec(grader=EASY, completions=2, max_completion_tokens=4)


def preference_trainer(held: Held, checkpoint_steps: int, **given: Any):  # type: ignore[no-untyped-def]
    """Make a trainer on the bundled base."""
    from service.training.preference import PreferenceTrainer

    loaded = loaded_base(held)
    return PreferenceTrainer(loaded, Renderer(loaded.description), checkpoint_steps, **given)


def reinforcement_trainer(held: Held, checkpoint_steps: int, **given: Any):  # type: ignore[no-untyped-def]
    """Make a trainer on the bundled base."""
    from service.training.reinforcement import ReinforcementTrainer

    loaded = loaded_base(held)
    return ReinforcementTrainer(loaded, Renderer(loaded.description), checkpoint_steps, **given)


def preferring(task: TrainingTask) -> TrainingTask:
    """Prefer what a supervised task would learn to a refusal."""
    return _changed(task, _preference, method="dpo", dpo=DpoSpec())


def reinforcing(task: TrainingTask, chosen: ReinforcementSpec = QUICK) -> TrainingTask:
    """Ask what a supervised task would learn to answer."""
    return _changed(task, _prompt, method="reinforcement", reinforcement=chosen)


def graded_by(grader: Grader, **chosen: Any) -> ReinforcementSpec:
    """Change how answers are graded."""
    return msgspec.structs.replace(QUICK, grader=grader, **chosen)


class Translated:
    """A trainer of another method that takes supervised tasks for its own."""

    def __init__(self, trainer: Trainer, translate: Callable[[TrainingTask], TrainingTask]) -> None:
        self._trainer = trainer
        self._translate = translate

    def train(
        self,
        task: TrainingTask,
        report: Callable[[TrainingEvent], None],
        should_stop: Callable[[], bool],
    ) -> TrainingOutcome:
        """See Trainer.train."""
        return self._trainer.train(self._translate(task), report, should_stop)


def _changed(
    task: TrainingTask, example: Callable[[ChatExample], Example], **spec: Any
) -> TrainingTask:
    def all_of(examples: Any) -> list[Example]:
        return [example(one) for one in examples]

    return msgspec.structs.replace(
        task,
        spec=msgspec.structs.replace(task.spec, **spec),
        train=all_of(task.train),
        validation=all_of(task.validation),
    )


def _preference(example: ChatExample) -> PreferenceExample:
    *asked, answer = example.messages
    refusal = Message("assistant", f"I will not: {asked[-1].content}!", weight=answer.weight)
    return PreferenceExample(example, ChatExample([*asked, refusal]))


def _prompt(example: ChatExample) -> Prompt:
    *asked, answer = example.messages
    return Prompt(asked, None, {"answer": answer.content})
