"""Token ids to text, as they come: whole characters only."""

import codecs
import json
import re
from collections.abc import Collection
from functools import lru_cache

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Detokenizer:
    """Decodes one sequence incrementally.

    The pieces together are what the tokenizer decodes from the whole, special tokens left out
    but for those that are `shown`.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[int] = ()) -> None:
        self._vocabulary = _vocabulary(tokenizer)
        self._shown = shown
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first = True

    def add(self, token_id: int) -> str:
        """Take one token; returns the characters that are whole with it, often none."""
        if token_id in self._vocabulary.special and token_id not in self._shown:
            return ""
        first, self._first = self._first, False
        vocabulary = self._vocabulary
        piece = vocabulary.first(token_id) if first else vocabulary.bytes_of(token_id)
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """End the sequence; bytes that never became a character come out as U+FFFD."""
        return self._decoder.decode(b"", final=True)

    def token_bytes(self, token_id: int) -> bytes:
        """Look up a token's own bytes, which may be part of a character."""
        return self._vocabulary.bytes_of(token_id)


class _Vocabulary:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special = frozenset(index for index, token in added.items() if token.special)
        self._added = frozenset(added)
        self._byte_level = "ByteLevel" in _decoder_kinds(tokenizer)

    def bytes_of(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:  # the model's vocabulary may be padded beyond the tokenizer's
            return b""
        if self._byte_level:
            return _byte_level(token)
        if token_id in self._added:
            return token.encode()
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()

    def first(self, token_id: int) -> bytes:
        """Sentencepiece-style decoders drop the space that they put before the first word."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or self._byte_level or _BYTE.fullmatch(token):
            return self.bytes_of(token_id)
        text: str = self._tokenizer.decoder.decode([token])
        return text.encode()


# Reading the decoder and the added tokens costs more than decoding a short answer.
_vocabulary = lru_cache(maxsize=8)(_Vocabulary)


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    decoder = tokenizer.decoder
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {part["type"] for part in [state, *state.get("decoders", [])]}


def _byte_level(token: str) -> bytes:
    # Added tokens are kept as plain text, which may hold characters outside the alphabet.
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others follow from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(plain)]
    shifted = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in plain}, **shifted}


_BYTE_OF = _byte_alphabet()
