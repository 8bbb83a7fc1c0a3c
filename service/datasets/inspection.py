"""A training file on disk: read it line by line, and find out whether and what it can train."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from service.datasets.parsing import MAX_LINE_BYTES, Fault, Faults, Row, parse
from service.errors import InvalidTrainingFile
from service.rendering.examples import Example, PreferenceExample, PromptExample, RowFormat
from service.rendering.renderer import Renderer
from service.rendering.template import RenderingError


class Summary(msgspec.Struct, frozen=True):
    """What a good training file holds. Tokens are counted once, untruncated."""

    format: RowFormat
    rows: int
    tokens: int
    longest_example: int


def inspect(path: Path, renderer: Renderer) -> Summary:
    """Check and count every row; blocks. Raises InvalidTrainingFile with the lines at fault."""
    faults = Faults()
    rows = tokens = longest = 0
    format_: RowFormat = "messages"
    with path.open("rb") as stream:
        for found in parse(lines_of(stream)):
            lengths = found if isinstance(found, Fault) else _measure(found, renderer)
            if isinstance(lengths, Fault):
                faults.add(lengths)
                continue
            rows, tokens, longest = rows + 1, tokens + sum(lengths), max(longest, *lengths)
            format_ = found.format if isinstance(found, Row) else format_
    if faults.count:
        raise invalid(faults)
    return Summary(format_, rows, tokens, longest)


def examples_of(path: Path) -> list[Example]:
    """Read all rows; blocks. Raises InvalidTrainingFile."""
    faults = Faults()
    examples: list[Example] = []
    with path.open("rb") as stream:
        for found in parse(lines_of(stream)):
            if isinstance(found, Fault):
                faults.add(found)
            else:
                examples.append(found.example)
    if faults.count:
        raise invalid(faults)
    return examples


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Split into lines without ever holding one that is over the limit; such a one comes cut."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield line.removesuffix(b"\n")


def invalid(faults: Faults) -> InvalidTrainingFile:
    """Tell the faults."""
    lines = "1 line" if faults.count == 1 else f"{faults.count} lines"
    first = faults.first[0]
    return InvalidTrainingFile(
        f"The file cannot be trained on: {lines} at fault, first line {first.line}: {first.reason}",
        [(fault.line, fault.reason) for fault in faults.first],
        faults.count,
    )


def _measure(row: Row, renderer: Renderer) -> list[int] | Fault:
    """Count the tokens of what is rendered of a row: one sequence, or both of a preference."""
    limit = renderer.base.context_length
    try:
        match row.example:
            case PromptExample(messages=messages, tools=tools):
                lengths = [len(renderer.prompt(messages, tools))]
                learnable = lengths[0] < limit
            case PreferenceExample(preferred=preferred, other=other):
                both = [renderer.example(one, None) for one in (preferred, other)]
                lengths = [len(one.input_ids) for one in both]
                learnable = all(any(one.loss_mask[:limit]) for one in both)
            case example:
                rendered = renderer.example(example, None)
                lengths, learnable = [len(rendered.input_ids)], any(rendered.loss_mask[:limit])
    except RenderingError as fault:
        return Fault(row.line, fault.message)
    if not learnable:
        reason = f"nothing to learn lies within the base model's {limit} tokens"
        return Fault(row.line, f"{reason}: the prompt alone fills them")
    return lengths
