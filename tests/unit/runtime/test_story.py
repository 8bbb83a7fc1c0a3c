"""What a tenant is told, each thing once."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from service.base.probes import Probes
from service.runtime.story import Story, Told
from service.training.trainer import (
    BestTaken,
    CheckpointDue,
    EpochDone,
    Evaluated,
    Started,
    StepDone,
    StoppedEarly,
    TrainingEvent,
)


def step(number: int) -> StepDone:
    return StepDone(number, 20, 1.25, 0.5, 1e-4, number * 10, 99.0)


def run(begin: int, end: int) -> list[TrainingEvent]:
    """What a trainer reports from a checkpoint at `begin` until it dies at `end`."""
    events: list[TrainingEvent] = [Started(begin, 20, 80, 8, 2, 1)]
    if begin == 0:
        events.append(Evaluated(0, 3.0, 0.1))
    for number in range(begin + 1, end + 1):
        events.append(step(number))
        if number % 5 == 0:
            events += [Evaluated(number, 2.0, 0.2), EpochDone(1, number, Path(), {}, Probes([]))]
            events.append(CheckpointDue(number))
    return events


def told(events: list[TrainingEvent], before: list[Told]) -> list[Told]:
    story = Story([(one.message, one.data) for one in before])
    return before + [one for event in events for one in story.tell(event)]


def test_a_step_has_figures_and_a_sentence() -> None:
    [one] = Story().tell(step(3))
    assert one.message == "Step 3/20: training loss=1.25"
    assert one.data == {
        "step": 3,
        "total_steps": 20,
        "train_loss": 1.25,
        "train_mean_token_accuracy": 0.5,
        "learning_rate": 1e-4,
        "tokens_per_second": 99.0,
        "trained_tokens": 30,
    }


def test_what_a_method_measures_besides_is_told_too() -> None:
    [one] = Story().tell(StepDone(3, 20, 1.25, 0.5, 1e-4, 30, 99.0, {"rewards/margins": 2.0}))
    assert one.data is not None
    assert one.data["rewards/margins"] == 2.0
    rewards = {"valid_mean_reward": 0.75}
    [one] = Story().tell(Evaluated(5, None, None, rewards))
    assert one.message == "Step 5/0: validation valid_mean_reward=0.75"
    assert one.data is not None
    assert (one.data["valid_mean_reward"], one.data["valid_loss"]) == (0.75, None)
    [one] = Story().tell(Evaluated(5, 0.5, 0.9))
    assert one.message == "Step 5/0: validation loss=0.50"


def test_what_was_cut_or_left_out_is_a_warning() -> None:
    said = Story().tell(Started(0, 20, 80, 8, 2, 1))
    assert [one.level for one in said] == ["warn", "warn"]
    assert "2 examples are longer" in said[0].message
    assert "1 example was left out" in said[1].message


def test_nothing_is_said_of_what_went_well() -> None:
    assert Story().tell(Started(0, 20, 80, 8, 0, 0)) == []
    assert Story().tell(CheckpointDue(3)) == []


def test_an_early_end_says_when_why_and_with_what() -> None:
    story = Story()
    once = StoppedEarly(14, 20, 2)
    assert [one.message for one in story.tell(once)] == [
        "Stopped early at step 14/20: the validation loss did not improve in 2 evaluations"
    ]
    assert story.tell(once) == []
    [last] = story.tell(StoppedEarly(16, 20, 1))
    assert last.message.endswith("did not improve in the last evaluation")
    [best] = story.tell(BestTaken(10, 1.238))
    assert best == Told(
        "The weights of step 10 are taken, which were the best: validation loss=1.24"
    )


def test_a_message_is_said_once() -> None:
    story = Story([("Checkpoint", None)])
    assert story.once("Checkpoint") == []
    assert story.once("Another") == [Told("Another")]
    assert story.once("Another") == []


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6))
def test_however_often_a_run_is_interrupted_its_story_is_that_of_a_calm_one(
    attempts: list[tuple[int, int]],
) -> None:
    calm = told(run(0, 20), [])
    stormy: list[Told] = []
    reached = 0
    for begin, length in attempts:
        # A checkpoint lies at or before what was told: the trainer sees to that.
        resumed = min(begin, reached)
        died = min(20, resumed + length)
        reached = max(reached, died)
        stormy = told(run(resumed, died), stormy)
    stormy = told(run(min(reached, 5), 20), stormy)
    assert stormy == calm
