"""What of a JSON Schema would take a grammar too long. Pure.

llguidance bounds most of it by itself, but not how long it is read, nor `multipleOf`: one number's
automaton has as many states as the number is large, and those of two have their common multiple.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

MOST_CHARACTERS = 64_000
"""Of a grammar: a second's work at most."""
MOST_MULTIPLE = 1000


def beyond_bounds(schema: dict[str, Any]) -> str:
    """Say what is too much in a schema; nothing where it may be read."""
    multiples = [Fraction(str(number)).numerator for number in _multiples(schema)]
    if math.lcm(*multiples) > MOST_MULTIPLE:
        return f"the least common multiple of every 'multipleOf' is over {MOST_MULTIPLE}"
    return ""


def _multiples(schema: object) -> Iterator[int | float]:
    match schema:
        case list():
            for part in schema:
                yield from _multiples(part)
        case dict():
            for key, part in schema.items():
                if key == "multipleOf" and isinstance(part, int | float):
                    yield part
                yield from _multiples(part)
