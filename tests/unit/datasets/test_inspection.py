import io
from pathlib import Path

import pytest

from service.datasets.inspection import Summary, examples_of, inspect, lines_of
from service.datasets.parsing import MAX_LINE_BYTES
from service.errors import InvalidTrainingFile
from service.rendering.examples import CompletionExample, TextExample
from service.rendering.renderer import Renderer
from tests.unit.rendering import templates
from tests.unit.rendering.bases import base_of, byte_level

CHAT = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "ok"}]}\n'


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """A base of the style that refuses two user turns in a row, with a context of 64 tokens."""
    tokenizer = byte_level(["<s>", "</s>"])
    return Renderer(
        base_of(
            tmp_path_factory.mktemp("base"),
            tokenizer,
            templates.MISTRAL,
            config={"max_position_embeddings": 64},
            bos_token="<s>",
            eos_token="</s>",
        )
    )


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.jsonl"
    path.write_text(text)
    return path


def test_a_good_file_is_counted(tmp_path: Path, renderer: Renderer) -> None:
    summary = inspect(written(tmp_path, '{"text": "a"}\n\n{"text": "a a"}'), renderer)
    short, longer = (len(renderer.example(TextExample(t), None).input_ids) for t in ("a", "a a"))
    assert summary == Summary("text", 2, short + longer, longer)


def test_a_row_that_the_template_refuses_is_a_fault_of_its_line(
    tmp_path: Path, renderer: Renderer
) -> None:
    twice = CHAT.replace('{"role": "u', '{"role": "user", "content": "x"}, {"role": "u')
    with pytest.raises(InvalidTrainingFile) as caught:
        inspect(written(tmp_path, CHAT % "hi" + twice % "hi"), renderer)
    [(line, reason)] = caught.value.errors
    assert line == 2
    assert "roles must alternate" in reason


def test_a_row_whose_answer_lies_beyond_the_context_is_a_fault(
    tmp_path: Path, renderer: Renderer
) -> None:
    with pytest.raises(InvalidTrainingFile) as caught:
        inspect(written(tmp_path, CHAT % ("hi " * 200)), renderer)
    assert "64 tokens" in caught.value.errors[0][1]


def test_of_a_preference_both_answers_count(tmp_path: Path, renderer: Renderer) -> None:
    row = '{"prompt": "a ", "chosen": "%s", "rejected": "%s"}'
    whole = inspect(written(tmp_path, row % ("b", "b b")), renderer)
    both = [
        len(renderer.example(CompletionExample("a ", text), None).input_ids)
        for text in ("b", "b b")
    ]
    assert whole == Summary("preference", 1, sum(both), max(both))
    with pytest.raises(InvalidTrainingFile, match="64 tokens"):
        inspect(written(tmp_path, row.replace("a ", "a " * 70) % ("b", "b b")), renderer)


def test_a_prompt_must_leave_room_for_an_answer(tmp_path: Path, renderer: Renderer) -> None:
    row = '{"messages": [{"role": "user", "content": "%s"}], "answer": 4}'
    tokens = len(renderer.instruction("hi"))
    summary = inspect(written(tmp_path, row % "hi"), renderer)
    assert summary == Summary("reinforcement", 1, tokens, tokens)
    with pytest.raises(InvalidTrainingFile, match="64 tokens"):
        inspect(written(tmp_path, row % ("hi " * 200)), renderer)


def test_all_faults_are_counted(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(InvalidTrainingFile) as caught:
        inspect(written(tmp_path, "{\n" * 150), renderer)
    assert caught.value.error_count == 150
    assert len(caught.value.errors) == 100


def test_a_stored_file_gives_its_examples(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}\n{"text": "b"}\n')
    assert examples_of(path) == [TextExample("a"), TextExample("b")]


def test_a_line_over_the_limit_is_never_held_whole() -> None:
    fits, over = b"x" * MAX_LINE_BYTES, b"y" * (5 * MAX_LINE_BYTES)
    lines = list(lines_of(io.BytesIO(b"\n".join([fits, over, b"z"]))))
    assert lines == [fits, over[: MAX_LINE_BYTES + 1], b"z"]
