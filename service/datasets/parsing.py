"""Lines of bytes to examples, or to faults with their line numbers. Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from service.datasets import rows
from service.datasets.reasons import Unusable
from service.rendering.examples import Example, RowFormat

MAX_LINE_BYTES = 1024 * 1024
MAX_FAULTS = 100
"""Faults kept of a file; all are counted."""
BOM = b"\xef\xbb\xbf"


class Row(msgspec.Struct, frozen=True):
    """A good line. Lines count from 1."""

    line: int
    format: RowFormat
    example: Example


class Fault(msgspec.Struct, frozen=True):
    """A bad line, or a file that is bad as a whole (line 1)."""

    line: int
    reason: str


class Faults:
    """The first faults of a file, and how many there are."""

    def __init__(self) -> None:
        self.first: list[Fault] = []
        self.count = 0

    def add(self, fault: Fault) -> None:
        """Count it, and keep it while there is room."""
        self.count += 1
        if len(self.first) < MAX_FAULTS:
            self.first.append(fault)


def parse(lines: Iterable[bytes]) -> Iterator[Row | Fault]:
    """Read the lines of a file, one at a time; blank ones are passed over.

    The first row that has a shape decides the file's. A line that is longer than MAX_LINE_BYTES
    may be given cut short, as long as it is still longer.
    """
    first: tuple[int, RowFormat] | None = None
    empty = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        empty = False
        try:
            row = _decode(line, number)
            shape = rows.shape_of(row)
            first = first or (number, shape)
            if shape != first[1]:
                raise Unusable(_mixed(shape, *first))
            yield Row(number, shape, rows.read(row, shape))
        except Unusable as fault:
            yield Fault(number, fault.reason)
    if empty:
        yield Fault(1, "the file is empty: it needs at least one row")


def _decode(line: bytes, number: int) -> dict[str, object]:
    if len(line) > MAX_LINE_BYTES:
        raise Unusable(f"the line is longer than {MAX_LINE_BYTES} bytes")
    if number == 1 and line.startswith(BOM):
        raise Unusable("the file begins with a byte order mark (BOM); save it as UTF-8 without")
    try:
        line.decode()
        decoded: dict[str, object] = msgspec.json.decode(line)
    except UnicodeDecodeError as fault:
        raise Unusable(f"the line is not UTF-8 (at byte {fault.start + 1})") from None
    except msgspec.MsgspecError as fault:
        raise Unusable(f"the line is not valid JSON: {fault}") from None
    except RecursionError:
        raise Unusable("the line's JSON is nested too deeply") from None
    return decoded


def _mixed(shape: RowFormat, line: int, expected: RowFormat) -> str:
    return (
        f"this row has the {shape} shape, but the file began with the {expected} shape in line "
        f"{line}: all rows of a file must have one shape"
    )
