"""No name leads out of the store, and every place is one revision's."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store import InvalidName, RevisionRef
from adapters_store.layout import Layout
from tests.strategies import digests, names

LAYOUT = Layout(Path("/store/of/ours"))

refs = st.builds(RevisionRef, names, names, digests())
hostile = st.one_of(
    st.text(max_size=80),
    st.text("a0.-/\\\0\n\u2215\uff0e", max_size=70),
    st.lists(st.sampled_from(["..", ".", "", "acme", ".staging"])).map("/".join),
)


@given(refs)
def test_a_reference_has_a_place_and_the_place_gives_it_back(ref: RevisionRef) -> None:
    assert LAYOUT.ref(LAYOUT.revision(ref)) == ref


@given(hostile | names, hostile | names, hostile | digests())
def test_no_name_maps_outside_the_root_or_among_what_is_being_written(
    tenant: str, adapter: str, digest: str
) -> None:
    try:
        place = LAYOUT.revision(RevisionRef(tenant, adapter, digest))
    except InvalidName:
        return
    assert Path(os.path.normpath(place)) == place
    assert place.parent.parent.parent == LAYOUT.root
    assert place.relative_to(LAYOUT.root).parts == (tenant, adapter, digest)
    assert not place.is_relative_to(LAYOUT.staging)
    assert not place.is_relative_to(LAYOUT.trash)


@given(refs, refs)
def test_two_references_never_share_a_place(one: RevisionRef, other: RevisionRef) -> None:
    assert (LAYOUT.revision(one) == LAYOUT.revision(other)) == (one == other)


@given(st.lists(hostile.filter(lambda part: "\0" not in part), max_size=5))
def test_a_path_that_is_no_revisions_place_has_no_reference(parts: list[str]) -> None:
    path = LAYOUT.root.joinpath(*parts)
    try:
        ref = LAYOUT.ref(path)
    except InvalidName:
        return
    assert LAYOUT.revision(ref) == path


@given(refs)
def test_a_place_in_another_store_has_no_reference_here(ref: RevisionRef) -> None:
    with pytest.raises(InvalidName):
        LAYOUT.ref(Layout(Path("/elsewhere")).revision(ref))
