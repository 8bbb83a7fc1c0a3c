"""How benches of whole services print what they found."""

import json
from collections.abc import Sequence

import msgspec


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One case: a figure of ours against the peer's, in `unit`."""

    case: str
    ours: float
    peer: float
    unit: str
    most: float | None = None
    """Target: ours is at most so many times the peer's."""
    least: float | None = None
    """Target: ours is at least so many times the peer's."""

    @property
    def ratio(self) -> float:
        """How many times the peer's figure is ours."""
        return self.ours / self.peer if self.peer else float("nan")

    @property
    def verdict(self) -> str:
        """What became of the target."""
        if self.most is not None:
            return f"<= {self.most:g}: {'met' if self.ratio <= self.most else 'missed'}"
        if self.least is not None:
            return f">= {self.least:g}: {'met' if self.ratio >= self.least else 'missed'}"
        return ""


def report(bench: str, preset: str, lines: Sequence[Line]) -> None:
    """Print a table, and as the last line one JSON object."""
    width = max(len(line.case) for line in lines)
    print(f"{'case':<{width}}  {'ours':>10}  {'peer':>10}  {'unit':<9}  {'ratio':>6}  target")
    for line in lines:
        told = f"{line.case:<{width}}  {line.ours:>10,.2f}  {line.peer:>10,.2f}  {line.unit:<9}"
        print(f"{told}  {line.ratio:>6.2f}  {line.verdict}")
    rows = [
        {
            "case": line.case,
            "unit": line.unit,
            "ours": round(line.ours, 3),
            "peer": round(line.peer, 3),
            "ratio": round(line.ratio, 3),
        }
        for line in lines
    ]
    print(json.dumps({"bench": bench, "preset": preset, "rows": rows}))
