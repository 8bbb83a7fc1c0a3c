"""From tokens to pieces: whole characters, no part of a stop string, logprobs beside their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.rendering.detokenizer import Detokenizer
from service.serving.choices import Choice, chances
from service.serving.engine import Piece, Sampling
from service.settings import BUNDLED_BASE

END = 3
TOKENIZER = Tokenizer.from_file(str(BUNDLED_BASE / "tokenizer.json"))


def run(tokens: list[int], *, logprobs: int | None = None, **sampling) -> list[Piece]:
    given = {"max_tokens": 100, **sampling}
    choice = Choice(2, Sampling(logprobs=logprobs, **given), {END}, Detokenizer(TOKENIZER))
    pieces: list[Piece] = []
    for token in tokens:
        value = None if logprobs is None else -0.5
        if piece := choice.take(token, value, [(token, -0.5)] * (logprobs or 0)):
            pieces.append(piece)
            if piece.finish_reason:
                break
    return pieces


def ids(text: str) -> list[int]:
    encoded: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return encoded


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_the_end_of_turn_token_ends_it_and_is_counted_but_not_said() -> None:
    tokens = ids("Hello there.")
    last = run([*tokens, END])[-1]
    assert (last.finish_reason, last.tokens, last.index) == ("stop", len(tokens) + 1, 2)
    assert text_of(run([*tokens, END])) == "Hello there."


def test_max_tokens_end_it_with_whatever_was_held_back() -> None:
    tokens = ids("one two three")
    pieces = run(tokens, max_tokens=len(tokens), stop=("three four",))
    assert (text_of(pieces), pieces[-1].finish_reason) == ("one two three", "length")


def test_the_end_of_turn_token_as_the_last_allowed_one_is_a_stop() -> None:
    tokens = ids("one")
    assert run([*tokens, END], max_tokens=len(tokens) + 1)[-1].finish_reason == "stop"


def test_a_stop_string_that_the_last_allowed_token_completes_is_a_stop() -> None:
    tokens = ids("one two")
    pieces = run(tokens, max_tokens=len(tokens), stop=("two",))
    assert (text_of(pieces), pieces[-1].finish_reason) == ("one ", "stop")


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokens = ids("a 🦉 b")
    assert all("\ufffd" not in piece.text for piece in run([*tokens, END]))
    assert text_of(run([*tokens, END])) == "a 🦉 b"


def test_a_character_that_is_cut_off_by_the_end_is_shown_as_such() -> None:
    tokens = ids("🦉")[:-1]
    pieces = run([*tokens, END], logprobs=0)
    assert text_of(pieces) == "\ufffd"
    assert sum(len(piece.logprobs or []) for piece in pieces) == len(tokens)


texts = st.text(st.sampled_from("ab é🦉"), min_size=1, max_size=12)


@given(texts, st.lists(texts, max_size=2), st.booleans())
def test_logprobs_are_those_of_exactly_the_tokens_whose_text_is_out(text, stops, ended) -> None:
    tokens = ids(text)
    pieces = run(
        [*tokens, END] if ended else tokens,
        max_tokens=len(tokens) + ended,
        stop=tuple(stops),
        logprobs=1,
    )
    said = [logprob for piece in pieces for logprob in piece.logprobs or []]
    assert [logprob.token_id for logprob in said] == tokens[: len(said)]
    whole = text_of(pieces)
    assert whole == text or any(stop in text for stop in stops)
    if whole == text:
        assert len(said) == len(tokens)
    held = b"".join(bytes(logprob.bytes) for logprob in said).decode(errors="replace")
    assert held.startswith(whole)


def test_without_logprobs_pieces_have_none() -> None:
    assert {piece.logprobs for piece in run([*ids("one two"), END])} == {None}


@pytest.mark.parametrize("seed", [0, -1, 2**63])
def test_chance_follows_seed_and_index(seed: int) -> None:
    draws = {index: [chances(seed, index).random() for _ in range(2)] for index in range(3)}
    assert all(first == second for first, second in draws.values())
    assert len({first for first, _ in draws.values()}) == 3


def test_without_a_seed_chance_differs() -> None:
    assert chances(None, 0).random() != chances(None, 0).random()


def test_a_stop_token_ends_it_as_the_end_of_turn_does() -> None:
    tokens = ids("Hello there.")
    pieces = run(tokens, stop_token_ids=(tokens[-1], 7), logprobs=0)
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].tokens == len(tokens)
    assert text_of(pieces) == TOKENIZER.decode(tokens[:-1])
    assert sum(len(piece.logprobs or []) for piece in pieces) == len(tokens) - 1


def test_who_ignores_the_end_of_turn_goes_on_and_stop_tokens_count_even_so() -> None:
    tokens = ids("one two")
    pieces = run([END, *tokens, 7], ignore_eos=True, stop_token_ids=(7,))
    assert text_of(pieces) == "one two"
    assert (pieces[-1].finish_reason, pieces[-1].tokens) == ("stop", len(tokens) + 2)


def test_it_tells_what_ends_it() -> None:
    def ends(**sampling) -> set[int]:
        given = Sampling(max_tokens=1, **sampling)
        return Choice(0, given, (END,), Detokenizer(TOKENIZER)).ends

    assert ends() == {END}
    assert ends(stop_token_ids=(7, 8)) == {END, 7, 8}
    assert ends(stop_token_ids=(7,), ignore_eos=True) == {7}
