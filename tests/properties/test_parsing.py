"""Whatever is uploaded, parsing tells rows and faults, and never anything else."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.datasets.parsing import Fault, Row, parse
from service.rendering.examples import Example
from tests import strategies


@given(strategies.file_lines)
def test_any_lines_become_rows_or_faults_with_a_line_number_in_range(lines: list[bytes]) -> None:
    found = list(parse(lines))
    assert found
    assert all(1 <= one.line <= max(1, len(lines)) for one in found)
    assert all(one.reason for one in found if isinstance(one, Fault))


@given(strategies.file_lines)
def test_every_line_that_is_not_blank_is_answered_exactly_once(lines: list[bytes]) -> None:
    filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    assert [one.line for one in parse(lines)] == (filled or [1])


@given(strategies.file_lines)
def test_all_good_rows_of_a_file_have_one_shape(lines: list[bytes]) -> None:
    assert len({one.format for one in parse(lines) if isinstance(one, Row)}) <= 1


@given(
    st.one_of(
        st.lists(strategies.chat_examples, min_size=1, max_size=4),
        st.lists(strategies.completion_examples, min_size=1, max_size=4),
        st.lists(strategies.text_examples, min_size=1, max_size=4),
    )
)
def test_written_examples_are_read_as_they_were(examples: list[Example]) -> None:
    found = list(parse([msgspec.json.encode(example) for example in examples]))
    assert [one.example for one in found if isinstance(one, Row)] == examples
