"""The fake engine's way with grammars: a byte is a token."""

from functools import cache

import msgspec
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from service.errors import BadRequest

END = 256
FAVOURED = b'"}]0:{[n'
"""Bytes that bring JSON to its end soonest; of others the first that may be."""


class _Bytes(msgspec.Struct, frozen=True):
    """What llguidance wants to know of a vocabulary."""

    tokens: list[bytes]
    eos_token_id: int = END
    bos_token_id: int | None = None

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def structured(grammar: str | None, wanted: str) -> str:
    """Say what is wanted as far as a grammar allows it, and what ends it soonest."""
    if grammar is None:
        return wanted
    matcher = LLMatcher(_tokenizer(), grammar, log_level=0)
    if matcher.is_error():
        raise BadRequest(matcher.get_error(), param="structure")
    said = bytearray()
    for byte in wanted.encode():
        if not _allows(matcher.compute_bitmask(), byte):
            break
        said.append(byte)
        matcher.consume_token(byte)
    while not matcher.is_accepting():
        mask = matcher.compute_bitmask()
        byte = next(byte for byte in (*FAVOURED, *range(END)) if _allows(mask, byte))
        said.append(byte)
        matcher.consume_token(byte)
    return said.decode()


def _allows(mask: bytes, token: int) -> bool:
    return bool(mask[token // 8] >> token % 8 & 1)


@cache
def _tokenizer() -> LLTokenizer:
    every = [bytes([byte]) for byte in range(END)]
    return LLTokenizer(TokenizerWrapper(_Bytes([*every, b"<end>"])), eos_token=END)
