"""Frames are found in a stream however it is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.messages import MAX_FRAME, FrameTooLarge, split

BODIES = st.lists(st.binary(max_size=20), max_size=8)


@given(bodies=BODIES, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_however_a_stream_is_cut_its_frames_come_whole_and_in_order(
    bodies: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    buffer, found = bytearray(), list[bytearray]()
    for begin, end in itertools.pairwise(edges):
        buffer += stream[begin:end]
        found += split(buffer)
    assert found == bodies
    assert not buffer


def test_a_frame_that_announces_too_much_is_refused_before_it_has_come() -> None:
    with pytest.raises(FrameTooLarge):
        split(bytearray((MAX_FRAME + 1).to_bytes(4, "big")))
