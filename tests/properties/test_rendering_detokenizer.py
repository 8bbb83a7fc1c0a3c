"""Pieces of text, as tokens come, are the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.rendering.detokenizer import Detokenizer
from tests import strategies
from tests.unit.rendering.bases import byte_level, metaspace

SPECIAL = ["<s>", "</s>"]


@pytest.fixture(scope="module", params=[byte_level, metaspace])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = request.param(SPECIAL)
    return made


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(token) for token in ids), detokenizer.flush()]


@given(text=strategies.plain_text)
def test_the_pieces_of_a_text_are_what_the_tokenizer_decodes(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=strategies.plain_text)
def test_a_character_over_several_tokens_comes_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text.replace("�", ""), add_special_tokens=False).ids
    assert not any("�" in piece for piece in pieces(tokenizer, ids))


@given(data=st.data())
def test_any_byte_level_tokens_decode_as_the_tokenizer_decodes_them(data: st.DataObject) -> None:
    tokenizer = byte_level_tokenizer()
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=30))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


_made: list[Tokenizer] = []


def byte_level_tokenizer() -> Tokenizer:
    if not _made:
        _made.append(byte_level(SPECIAL))
    return _made[0]
