"""The incremental stop matcher against a search of the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from service.serving.stopping import StopMatcher

# Few letters, so that stop strings overlap one another and themselves.
texts = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(st.lists(texts), stop_lists)
def test_it_cuts_where_a_search_of_the_whole_text_does(pieces, stops) -> None:
    matcher = StopMatcher(stops)
    out = "".join(matcher.add(piece) for piece in pieces)
    out += "" if matcher.stopped else matcher.flush()
    assert (out, matcher.stopped) == naive("".join(pieces), stops)


@given(st.lists(texts), stop_lists)
def test_what_was_let_out_is_never_taken_back(pieces, stops) -> None:
    matcher, out, given_in = StopMatcher(stops), "", ""
    for piece in pieces:
        out += matcher.add(piece)
        given_in += piece
        assert naive(given_in + "".join(stops), stops)[0].startswith(out)


@given(texts, stop_lists)
def test_the_cut_of_the_text_does_not_matter(text, stops) -> None:
    whole, each = StopMatcher(stops), StopMatcher(stops)
    assert whole.add(text) + whole.flush() == "".join(map(each.add, text)) + each.flush()


@given(texts)
def test_without_stop_strings_text_passes_at_once(text) -> None:
    assert StopMatcher([]).add(text) == text
