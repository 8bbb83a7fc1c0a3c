"""What the answers of a dataset look like: hardly anything, or one of a few classes. Pure."""

import hashlib
from collections import Counter

import msgspec

from service.rendering.examples import ChatExample, CompletionExample, Example, PreferenceExample

HARDLY = 2
"""An answer of fewer letters and digits is near-empty."""
MOST_ANSWERS = 10_000
"""Different ones that are counted; a file that has more of them holds no classes."""
MOST_SHOWN, MOST_CHARACTERS = 20, 100


class Frequent(msgspec.Struct, frozen=True):
    """An answer that several examples have in common."""

    answer: str
    count: int


class Answers:
    """Counts equal ones, in bounded memory."""

    def __init__(self) -> None:
        self.count = self.near_empty = 0
        self._seen: Counter[bytes] = Counter()
        self._texts: dict[bytes, str] = {}

    def add(self, example: Example) -> None:
        """Count an example's answer, if it has one."""
        answer = answer_of(example)
        if answer is None:
            return
        self.count += 1
        self.near_empty += near_empty(answer)
        key = hashlib.blake2b(answer.encode(), digest_size=8).digest()
        if key in self._seen or len(self._seen) < MOST_ANSWERS:
            self._seen[key] += 1
            self._texts.setdefault(key, answer[:MOST_CHARACTERS])

    @property
    def different(self) -> int | None:
        """How many there are; None for too many to count."""
        return len(self._seen) if len(self._seen) < MOST_ANSWERS else None

    @property
    def frequent(self) -> list[Frequent]:
        """Those that occur more than once, the most frequent first."""
        most = self._seen.most_common(MOST_SHOWN)
        return [Frequent(self._texts[key], count) for key, count in most if count > 1]


def answer_of(example: Example) -> str | None:
    """Give what is to be learned last: of a preference, the better answer; of plain text, nothing.

    A turn that only calls tools has no text, and is no answer here.
    """
    match example:
        case ChatExample(messages=messages):
            learned = [m for m in messages if m.role == "assistant" and m.weight != 0]
            return learned[-1].content if learned else None
        case CompletionExample(completion=completion):
            return completion
        case PreferenceExample(preferred=preferred):
            return answer_of(preferred)
        case _:
            return None


def near_empty(answer: str) -> bool:
    """Tell whether it says hardly anything."""
    return sum(map(str.isalnum, answer[:1000])) < HARDLY
