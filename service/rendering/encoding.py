"""Text to tokens, such that a token begins wherever serving begins to generate."""

from bisect import bisect_left
from collections.abc import Collection, Iterable

import msgspec
from tokenizers import Tokenizer


class Encoded(msgspec.Struct, frozen=True):
    """Tokens of one text."""

    ids: list[int]
    offsets: list[int]
    """Of each token its first character."""
    starts: list[int]
    """Of each given boundary the number of tokens before it."""


def encode(
    tokenizer: Tokenizer, added: Collection[int], text: str, boundaries: Iterable[int]
) -> Encoded:
    """Tokenise a text such that its tokens before each boundary are those of the text up to there.

    It is one tokenisation of the whole, cut only where a token would reach over a boundary (an
    answer that begins with a line break), or would be another for what comes after it. `added`
    are the ids of the tokenizer's added tokens: what is before one cannot change what is after.
    """
    ids, offsets = _tokens(tokenizer, text, 0)
    starts: list[int] = []
    cut = cut_index = 0
    for boundary in boundaries:
        anchor = bisect_left(offsets, boundary, lo=cut_index) - 1
        while anchor > cut_index and ids[anchor] not in added:
            anchor -= 1
        begin = offsets[anchor] if anchor > cut_index else cut
        anchor = max(anchor, cut_index)
        head, head_offsets = _tokens(tokenizer, text[begin:boundary], begin)
        starts.append(anchor + len(head))
        if ids[anchor : anchor + len(head)] != head:
            tail, tail_offsets = _tokens(tokenizer, text[boundary:], boundary)
            ids = [*ids[:anchor], *head, *tail]
            offsets = [*offsets[:anchor], *head_offsets, *tail_offsets]
            cut, cut_index = boundary, starts[-1]
    return Encoded(ids, offsets, starts)


def _tokens(tokenizer: Tokenizer, text: str, begin: int) -> tuple[list[int], list[int]]:
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return encoded.ids, [begin + start for start, _ in encoded.offsets]
