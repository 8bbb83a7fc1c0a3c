"""Examples become token rows: loss on what is to be learned, and nothing that teaches nothing."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.base.description import describe
from service.rendering.examples import Example, TextExample
from service.rendering.renderer import Rendered, Renderer
from service.rendering.template import RenderingError
from service.settings import BUNDLED_BASE
from service.training.rows import IGNORED, Row, micro_batch, render
from service.training.trainer import TrainingError, TrainingTask
from tests.unit.training.tasks import a_task, chat


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(describe(str(BUNDLED_BASE)))


def with_rows(workdir: Path, *train: object, max_length: int = 2048) -> TrainingTask:
    return msgspec.structs.replace(a_task(workdir, 0, max_length=max_length), train=list(train))


def learned(renderer: Renderer, row: Row) -> str:
    return renderer.tokenizer.decode([label for label in row.labels if label != IGNORED], False)


def test_loss_falls_on_the_answer_and_its_end_alone(renderer: Renderer, tmp_path: Path) -> None:
    rows = render(renderer, with_rows(tmp_path, chat("What is it?", "A lighthouse.")))
    [row] = rows.train
    assert learned(renderer, row) == "A lighthouse.<|im_end|>"
    assert len(row.labels) == len(row.input_ids)
    assert all(
        label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True)
    )


def test_the_first_token_is_never_learned_as_nothing_predicts_it(
    renderer: Renderer, tmp_path: Path
) -> None:
    [row] = render(renderer, with_rows(tmp_path, TextExample("All of it."))).train
    assert row.labels[0] == IGNORED


def test_a_long_example_is_cut_and_counted(renderer: Renderer, tmp_path: Path) -> None:
    long = chat("Hi", "word " * 200)
    rows = render(renderer, with_rows(tmp_path, long, chat("Hi", "Ho"), max_length=64))
    assert (rows.truncated, rows.dropped) == (1, 0)
    assert len(rows.train[0].input_ids) == 64


def test_an_example_whose_answer_was_cut_off_is_left_out_and_counted(
    renderer: Renderer, tmp_path: Path
) -> None:
    mute = chat("word " * 200, "Ho")
    rows = render(renderer, with_rows(tmp_path, mute, chat("Hi", "Ho"), max_length=64))
    assert (len(rows.train), rows.truncated, rows.dropped) == (1, 1, 1)


def test_with_no_example_left_the_file_is_to_blame(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as raised:
        render(renderer, with_rows(tmp_path, chat("word " * 200, "Ho"), max_length=64))
    assert (raised.value.code, raised.value.param) == ("no_trainable_examples", "training_file")


def test_an_example_the_template_cannot_take_is_named(renderer: Renderer, tmp_path: Path) -> None:
    class Picky(Renderer):
        def example(self, example: Example, max_length: int | None) -> Rendered:
            if example == chat("odd", "one"):
                raise RenderingError("it is odd")
            return super().example(example, max_length)

    task = with_rows(tmp_path, chat("Hi", "Ho"), chat("odd", "one"))
    with pytest.raises(TrainingError, match="Example 2 cannot be rendered: it is odd") as raised:
        render(Picky(renderer.base), task)
    assert raised.value.code == "invalid_training_file"


@given(batch=st.integers(1, 512), longest=st.integers(1, 32768), budget=st.integers(1, 65536))
def test_a_micro_batch_divides_the_batch_and_keeps_to_the_budget(
    batch: int, longest: int, budget: int
) -> None:
    size = micro_batch(batch, longest, budget)
    assert batch % size == 0
    assert size == 1 or size * longest <= budget
    larger = [n for n in range(size + 1, batch + 1) if batch % n == 0]
    assert all(n * longest > budget for n in larger)
