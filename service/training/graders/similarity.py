"""How alike two texts are, from 0 to 1, by published formulas. Equal texts are 1."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

ORDERS = (1, 2, 3, 4)
"""Lengths of the n-grams that BLEU and GLEU count."""

_WORD = re.compile(r"\w+")

Grams = Counter[tuple[str, ...]]


def similarity(metric: str, text: str, reference: str) -> float:
    """Score `text` against `reference`. Raises KeyError for a metric that is not here."""
    measure = METRICS[metric]
    return 1.0 if text == reference else measure(text, reference)


def fuzzy_match(text: str, reference: str) -> float:
    """Normalised insertions and deletions, 2 LCS / (|a| + |b|): `rapidfuzz.fuzz.ratio` / 100."""
    total = len(text) + len(reference)
    return 2 * common_length(text, reference) / total if total else 1.0


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU-4 (Papineni et al., 2002) of words divided by white space.

    One is added to the counts of orders above 1 (Lin and Och, 2004), so that one missing
    4-gram does not make it 0.
    """
    words, wanted = text.split(), reference.split()
    if not words or not wanted:
        return 0.0
    logs = 0.0
    for order in ORDERS:
        matches, total = _matches(words, wanted, order)
        smooth = order > 1
        if matches + smooth == 0:
            return 0.0
        logs += math.log((matches + smooth) / (total + smooth))
    brevity = min(0.0, 1 - len(wanted) / len(words))
    return min(1.0, math.exp(brevity + logs / len(ORDERS)))


def gleu(text: str, reference: str) -> float:
    """Sentence GLEU (Wu et al., 2016): the lesser of n-gram precision and recall, orders 1 to 4."""
    words, wanted = text.split(), reference.split()
    matches = sum(_matches(words, wanted, order)[0] for order in ORDERS)
    longer = max(len(words), len(wanted))
    total = sum(max(0, longer - order + 1) for order in ORDERS)
    return matches / total if total else 0.0


def rouge_n(text: str, reference: str, order: int) -> float:
    """ROUGE-N's F1 (Lin, 2004) of lower-cased words without punctuation."""
    grams, wanted = _grams(_words(text), order), _grams(_words(reference), order)
    return _f1((grams & wanted).total(), grams.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L's F1 (Lin, 2004): the longest common subsequence of words."""
    words, wanted = _words(text), _words(reference)
    return _f1(common_length(words, wanted), len(words), len(wanted))


def common_length(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, a row of the table at once in one integer.

    Hyyro, "Bit-parallel LCS-length computation revisited" (2004).
    """
    places: dict[Hashable, int] = {}
    for index, symbol in enumerate(one):
        places[symbol] = places.get(symbol, 0) | 1 << index
    every = (1 << len(one)) - 1
    row = every
    for symbol in other:
        matched = row & places.get(symbol, 0)
        row = (row + matched | row - matched) & every
    return len(one) - row.bit_count()


def _matches(words: list[str], wanted: list[str], order: int) -> tuple[int, int]:
    grams = _grams(words, order)
    return (grams & _grams(wanted, order)).total(), grams.total()


def _grams(words: list[str], order: int) -> Grams:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _f1(common: int, one: int, other: int) -> float:
    return 2 * common / (one + other) if common else 0.0


def _rouge(order: int) -> Callable[[str, str], float]:
    return lambda text, reference: rouge_n(text, reference, order)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{order}": _rouge(order) for order in range(1, 6)},
    "rouge_l": rouge_l,
}
