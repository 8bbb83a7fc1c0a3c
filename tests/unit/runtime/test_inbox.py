"""What is taken late is all that came, in fewer pieces."""

from hypothesis import given
from hypothesis import strategies as st

from service.runtime.inbox import joined
from service.serving.engine import Piece, TokenLogprob

WORD = TokenLogprob(7, "a", [97], -0.5, [])
CUT = st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3), st.booleans()), max_size=12)


@given(told=CUT)
def test_of_each_choice_all_text_and_logprobs_are_there_once(
    told: list[tuple[int, str, bool]],
) -> None:
    pieces = [
        Piece(index=index, text=text, tokens=at, logprobs=[WORD] if scored else None)
        for at, (index, text, scored) in enumerate(told)
    ]
    found = {piece.index: piece for piece in joined(pieces)}
    assert len(found) == len(joined(pieces))
    for index, piece in found.items():
        own = [one for one in pieces if one.index == index]
        assert piece.text == "".join(one.text for one in own)
        assert piece.tokens == own[-1].tokens
        assert len(piece.logprobs or []) == sum(one.logprobs is not None for one in own)


def test_the_first_says_how_long_it_waited_and_the_last_why_it_ended() -> None:
    first = Piece(index=0, text="a", tokens=1, queued=0.25)
    last = Piece(index=0, text="b", tokens=2, finish_reason="stop")
    [piece] = joined([first, last])
    assert piece == Piece(index=0, text="ab", tokens=2, queued=0.25, finish_reason="stop")
