"""What was found, and how it is shown. Pure."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """One check, and what it came to."""

    check: str
    state: State
    found: str
    do: str = ""
    """What to do about it, unless it is well."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything; `runs` says what a start would run, by name."""

    version: str
    will_run: bool
    reasons: list[str]
    """The checks for which it will not."""
    checks: list[Finding]
    runs: dict[str, str]


def report(version: str, checks: Sequence[Finding], runs: dict[str, str]) -> Report:
    """Put it together: whatever fails would keep it from running."""
    reasons = [one.check for one in checks if one.state == "fail"]
    return Report(
        version=version, will_run=not reasons, reasons=reasons, checks=list(checks), runs=runs
    )


def lines(told: Report) -> Iterator[str]:
    """Show a report as a table, what will run, and the verdict."""
    yield f"Lorehouse {told.version}"
    yield ""
    width = max((len(one.check) for one in told.checks), default=0)
    for one in told.checks:
        yield f"{one.state:<4}  {one.check:<{width}}  {one.found}"
        if one.do:
            yield f"{'':<4}  {'':<{width}}  -> {one.do}"
    if told.runs:
        yield ""
        yield "What will run" if told.will_run else "What would run"
        width = max(map(len, told.runs))
        yield from (f"  {name:<{width}}  {text}" for name, text in told.runs.items())
    yield ""
    yield "It will run." if told.will_run else f"It will not run: {', '.join(told.reasons)}."
