"""Names of models: what is made can be read back, and hostile text is no name."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.adapters.names import (
    PATTERN,
    AdapterName,
    AliasName,
    FullName,
    InvalidModelName,
    RevisionName,
    adapter_name,
    is_alias,
    is_name,
    model_name,
    parse,
    shortest_rev,
)
from tests.strategies import digests, names, revs

steps = st.none() | st.integers(0, 999_999_999)


@given(names, names, names, revs, steps)
def test_a_full_name_reads_back(
    base: str, tenant: str, adapter: str, rev: str, step: int | None
) -> None:
    made = model_name(base, tenant, adapter, rev, step)
    assert parse(made) == FullName(base, tenant, adapter, rev, step)


@given(names, names, revs)
def test_short_names_read_back(adapter: str, alias: str, rev: str) -> None:
    assert parse(adapter) == AdapterName(adapter)
    assert parse(f"{adapter}@{rev}") == RevisionName(adapter, rev)
    assume(not re.fullmatch("[0-9a-f]{8,64}", alias))
    assert parse(f"{adapter}@{alias}") == AliasName(adapter, alias)


@given(names | revs, names)
def test_an_alias_is_what_is_read_as_one(text: str, adapter: str) -> None:
    read_as_one = parse(f"{adapter}@{text}") == AliasName(adapter, text)
    assert is_alias(text) == read_as_one


@given(st.text() | st.from_regex(rf"({PATTERN})?[@:/]?({PATTERN})?"))
@example("lorehouse-tiny\n")
@example("../acme")
@example("a@b@c")
@example("ft:b:acme:x:deadbeef:ckpt-step-01")
@example("ft:b:acme:x:DEADBEEF")
@example("ft:b:acme:x:deadbee")
@example("ft:b:acme::deadbeef")
@example("ft:b:acme:x:deadbeef:")
@example("x@")
@example("@x")
@example("")
@example("\u0661dapter")
def test_what_is_read_is_made_of_names_only(text: str) -> None:
    try:
        ref = parse(text)
    except InvalidModelName:
        return
    match ref:
        case FullName():
            made = model_name(ref.base, ref.tenant, ref.adapter, ref.rev, ref.step)
        case AdapterName():
            made = ref.adapter
        case RevisionName():
            made = f"{ref.adapter}@{ref.rev}"
        case AliasName():
            made = f"{ref.adapter}@{ref.alias}"
    assert made == text
    assert is_name(ref.adapter)


@given(st.text(max_size=80))
@example("name\n")
@example("-x")
@example(".x")
@example("a" * 65)
@example("A")
def test_a_name_is_safe_as_a_path_segment(text: str) -> None:
    if is_name(text):
        assert 1 <= len(text) <= 64
        assert text.isascii()
        assert text == text.strip().lower()
        assert not set(text) & set("/\\:@%")
        assert text[0] not in ".-"


@pytest.mark.parametrize("part", ["", "A", "a:b", "a@b", "a/b", "..", "a\n"])
def test_no_name_is_made_of_what_is_none(part: str) -> None:
    with pytest.raises(InvalidModelName):
        model_name("base", "acme", part, "deadbeef")
    with pytest.raises(InvalidModelName):
        model_name(part, "acme", "support", "deadbeef")


@given(st.sets(digests(), max_size=20), digests())
def test_a_short_revision_is_the_shortest_that_tells_it_apart(
    others: set[str], digest: str
) -> None:
    rev = shortest_rev(digest, others)
    assert digest.startswith(rev)
    assert len(rev) >= 8
    rest = others - {digest}
    assert not any(other.startswith(rev) for other in rest)
    if len(rev) > 8:
        assert any(other.startswith(rev[:-1]) for other in rest)


def test_an_adapter_is_named_by_the_suffix_or_else_by_the_job() -> None:
    assert adapter_name("support", "ftjob-abc") == "support"
    assert adapter_name(None, "ftjob-abc") == "abc"
