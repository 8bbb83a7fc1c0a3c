"""What is counted beforehand is what training renders, and steps are those that it takes."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from service.jobs.plan_survey import Found, SurveyStopped, survey
from service.rendering.examples import (
    CompletionExample,
    Example,
    Message,
    PreferenceExample,
    PromptExample,
)
from service.rendering.renderer import Renderer
from service.rendering.template import RenderingError
from service.training.batch.order import Order, order_of
from service.training.counting import Total, counter, none_left, trained_tokens
from service.training.graders.shapes import StringCheckGrader
from service.training.pairs import render_pairs
from service.training.prompts import render_prompts
from service.training.rows import render
from service.training.spec import ReinforcementSpec, TrainingSpec
from service.training.split import split
from service.training.trainer import TrainingError, TrainingTask
from tests import strategies

GRADER = StringCheckGrader("exact", "{{ sample.output_text }}", "yes", "eq")
SAMPLING = ReinforcementSpec(grader=GRADER, completions=3, max_completion_tokens=8)
specs = st.builds(
    TrainingSpec,
    max_length=st.integers(8, 60),
    batch_size=st.integers(1, 9),
    n_epochs=st.integers(1, 4),
    validation_split=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 2**31),
)
preferences = st.builds(
    PreferenceExample, strategies.completion_examples, strategies.completion_examples
)
prompts = st.builds(
    lambda text: PromptExample([Message("user", text)], None, {}), strategies.filled_text
)


def counted(renderer: Renderer, spec: TrainingSpec, examples: list[Any]) -> Total:
    total, count = Total(), counter(renderer, spec)
    for example in examples:
        try:
            total.add(count(example))
        except RenderingError:
            assume(False)
    return total


def a_task(spec: TrainingSpec, train: list[Any], validation: list[Any]) -> TrainingTask:
    return TrainingTask("ftjob-a", spec, train, validation, Path("nowhere"))


@settings(max_examples=40)
@given(spec=specs, examples=st.lists(strategies.examples, min_size=1, max_size=8))
def test_examples_are_counted_as_they_are_rendered(
    renderer: Renderer, spec: TrainingSpec, examples: list[Example]
) -> None:
    total = counted(renderer, spec, examples)
    if not total.kept:
        with pytest.raises(TrainingError, match=re.escape(str(none_left(spec)))):
            render(renderer, a_task(spec, examples, []))
        return
    made = render(renderer, a_task(spec, examples, []))
    lengths = sorted((len(row.input_ids) for row in made.train), reverse=True)
    assert (total.kept, total.cut, total.dropped) == (len(lengths), made.truncated, made.dropped)
    assert (total.tokens, total.longest) == (sum(lengths), lengths[0])
    assert total.most_at_once(spec.batch_size) == sum(lengths[: spec.batch_size])
    order = order_of(spec, total.kept)
    seen = [place for step in range(order.total_steps) for place in order.batch(step)]
    given = [len(row.input_ids) for row in made.train]
    assert trained_tokens(spec, total) == sum(given[place] for place in seen)


@settings(max_examples=40)
@given(spec=specs, examples=st.lists(preferences, min_size=1, max_size=6))
def test_preferences_are_counted_as_they_are_rendered(
    renderer: Renderer, spec: TrainingSpec, examples: list[Example]
) -> None:
    spec = msgspec.structs.replace(spec, method="dpo")
    total = counted(renderer, spec, examples)
    assume(total.kept)
    made = render_pairs(renderer, a_task(spec, examples, []))
    assert (total.kept, total.cut, total.dropped) == (len(made.train), made.truncated, made.dropped)
    assert total.longest == made.longest
    assert total.tokens == sum(sum(pair.lengths) for pair in made.train)


@settings(max_examples=40)
@given(spec=specs, examples=st.lists(prompts, min_size=1, max_size=6))
def test_prompts_are_counted_as_they_are_rendered_and_answers_at_their_most(
    renderer: Renderer, spec: TrainingSpec, examples: list[Example]
) -> None:
    spec = msgspec.structs.replace(spec, method="reinforcement", reinforcement=SAMPLING)
    total = counted(renderer, spec, examples)
    if not total.kept:
        with pytest.raises(TrainingError, match="leaves room"):
            render_prompts(renderer, a_task(spec, examples, []), SAMPLING)
        return
    made = render_prompts(renderer, a_task(spec, examples, []), SAMPLING)
    assert (total.kept, total.dropped) == (len(made.train), made.dropped)
    assert total.tokens == sum(len(prompt.input_ids) for prompt in made.train)
    assert total.longest == made.longest + SAMPLING.max_completion_tokens
    order = Order(total.kept, spec.batch_size, 1, spec.seed)
    most = trained_tokens(spec, total) / spec.n_epochs / SAMPLING.completions
    answers = order.steps_per_epoch * spec.batch_size * SAMPLING.max_completion_tokens
    assert most >= total.tokens + answers
    assert most <= order.steps_per_epoch * spec.batch_size * total.longest


class Files:
    """Writes rows, and surveys them."""

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        self.folder, self.renderer = folder, renderer

    def write(self, name: str, rows: list[CompletionExample]) -> Path:
        path = self.folder / name
        lines = (json.dumps({"prompt": r.prompt, "completion": r.completion}) for r in rows)
        path.write_text("\n".join(lines))
        return path

    def survey(
        self,
        spec: TrainingSpec,
        rows: list[CompletionExample],
        validation: list[CompletionExample] | None = None,
        **options: Any,
    ) -> Found:
        files = self.write("train.jsonl", rows), len(rows)
        other = None if validation is None else self.write("validation.jsonl", validation)
        return survey(
            self.renderer, spec, files, other, options.pop("stopped", lambda: False), **options
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, renderer: Renderer) -> Files:
    return Files(tmp_path_factory.mktemp("files"), renderer)


completions = st.builds(
    CompletionExample, st.sampled_from(["a", "b", ""]), st.sampled_from(["x", "yes", "no", "!"])
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spec=specs,
    rows=st.lists(completions, min_size=1, max_size=20),
    validation=st.none() | st.lists(completions, min_size=1, max_size=6),
)
def test_a_survey_finds_what_the_job_will_train_on(
    files: Files,
    spec: TrainingSpec,
    rows: list[CompletionExample],
    validation: list[CompletionExample] | None,
) -> None:
    found = files.survey(spec, rows, validation)
    train, held_out = split(rows, spec.validation_split, spec.seed)
    if validation is not None:
        train, held_out = list(rows), list(validation)
    made = render(files.renderer, a_task(spec, train, held_out))
    assert found.train.kept == len(made.train)
    assert found.validation.kept == len(made.validation)
    assert found.train.tokens == sum(len(row.input_ids) for row in made.train)
    assert found.validation.tokens == sum(len(row.input_ids) for row in made.validation)
    assert found.duplicates == len(train) - len(set(map(repr, train)))
    assert found.overlap == sum(row in train for row in held_out)
    answers = [row.completion for row in train]
    assert found.answers.different == len(set(answers))
    assert {one.answer: one.count for one in found.answers.frequent} == {
        answer: answers.count(answer) for answer in set(answers) if answers.count(answer) > 1
    }
    assert found.answers.near_empty == answers.count("x") + answers.count("!")


def test_only_so_many_rows_are_compared(files: Files) -> None:
    rows = [CompletionExample("a", "yes")] * 6
    spec = TrainingSpec(validation_split=0.0)
    found = files.survey(spec, rows, rows, most_compared=4)
    assert (found.compared, found.duplicates, found.overlap) == (4, 3, 0)
    assert found.train.kept == found.validation.kept == 6


def test_a_survey_that_nobody_waits_for_ends_at_the_next_row(files: Files) -> None:
    asked = iter([False, False, True])
    with pytest.raises(SurveyStopped):
        files.survey(TrainingSpec(), [CompletionExample("a", "b")] * 9, stopped=lambda: next(asked))
    assert next(asked, None) is None
