from tokenizers import Tokenizer

from service.rendering.detokenizer import Detokenizer
from tests.unit.rendering.bases import byte_level, metaspace

SPECIAL = ["<|im_start|>", "<|im_end|>"]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def test_a_piece_holds_back_until_its_character_is_whole() -> None:
    tokenizer = byte_level(SPECIAL)
    detokenizer = Detokenizer(tokenizer)
    ids = ids_of(tokenizer, "é")
    assert len(ids) > 1
    assert [detokenizer.add(token) for token in ids] == [""] * (len(ids) - 1) + ["é"]
    assert detokenizer.flush() == ""


def test_flush_shows_what_never_became_a_character() -> None:
    tokenizer = byte_level(SPECIAL)
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add(ids_of(tokenizer, "é")[0]) == ""
    assert detokenizer.flush() == "�"


def test_special_tokens_say_nothing_but_have_bytes() -> None:
    tokenizer = byte_level(SPECIAL)
    detokenizer = Detokenizer(tokenizer)
    end = tokenizer.token_to_id("<|im_end|>")
    assert detokenizer.add(end) == ""
    assert detokenizer.token_bytes(end) == b"<|im_end|>"


def test_of_the_special_tokens_some_may_be_shown() -> None:
    for tokenizer in (byte_level(SPECIAL), metaspace(SPECIAL)):
        start, end = map(tokenizer.token_to_id, SPECIAL)
        detokenizer = Detokenizer(tokenizer, (start,))
        ids = [start, *ids_of(tokenizer, "hello"), end, start]
        said = "".join(map(detokenizer.add, ids))
        assert said.replace(" ", "") == "<|im_start|>hello<|im_start|>"


def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text() -> None:
    tokenizer = byte_level(SPECIAL)
    detokenizer = Detokenizer(tokenizer)
    text = " naïve\n日本 🙂"
    assert b"".join(map(detokenizer.token_bytes, ids_of(tokenizer, text))) == text.encode()


def test_only_the_very_first_space_of_a_sentencepiece_text_is_dropped() -> None:
    tokenizer = metaspace(["<s>"])
    detokenizer = Detokenizer(tokenizer)
    hello, there = ids_of(tokenizer, "hello"), ids_of(tokenizer, " there")
    pieces = [detokenizer.add(token) for token in [*hello, tokenizer.token_to_id("<s>"), *there]]
    assert "".join(pieces) == "hello there"


def test_an_id_of_a_padded_vocabulary_says_nothing() -> None:
    assert Detokenizer(byte_level(SPECIAL)).add(1_000_000) == ""
