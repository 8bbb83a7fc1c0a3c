"""Which of an alias's targets answers: weighted rendezvous hashing. Pure.

A key's score for a target is -weight / ln(u), where u in (0, 1) is a hash of key and target; the
highest wins (Thaler and Ravishankar 1998; weighted as by Schindelhauer and Schomaker 2005). A
target wins its weight's share of the keys, and when weights move only the keys that must do.
"""

import hashlib
import math
import secrets
from collections.abc import Sequence

import msgspec

_BITS = 52
"""So that half a step away from 0 and 1 is still a float of its own."""


class WeightedTarget(msgspec.Struct, frozen=True):
    """A revision's digest, and its share of the requests in proportion to the others'."""

    digest: str
    weight: int


def choose(targets: Sequence[WeightedTarget], key: str | None) -> str:
    """Pick a digest: the same for the same key, and without one at random."""
    key = secrets.token_hex() if key is None else key
    return max(targets, key=lambda target: (_score(target, key), target.digest)).digest


def _score(target: WeightedTarget, key: str) -> float:
    return -target.weight / math.log(_uniform(f"{target.digest}:{key}"))


def _uniform(text: str) -> float:
    # Keys are a client's text, lone surrogates and all.
    hashed = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    number = int.from_bytes(hashed[:8], "big") >> (64 - _BITS)
    return float((number + 0.5) / 2**_BITS)
