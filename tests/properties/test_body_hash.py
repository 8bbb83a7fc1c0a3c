"""Equal requests have equal digests, however their bodies are cut and their forms are bounded."""

from hypothesis import given
from hypothesis import strategies as st

from service.tenants.body_hash import BodyHash

boundaries = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=16, max_size=40)
contents = st.lists(st.binary(max_size=60), max_size=5)


def form(boundary: str, parts: list[bytes]) -> bytes:
    marked = b"--" + boundary.encode()
    return b"".join(marked + b"\r\n\r\n" + part + b"\r\n" for part in parts) + marked + b"--\r\n"


def digest(body: bytes, boundary: str | None, cuts: list[int], about: bytes = b"POST /") -> str:
    kind = None if boundary is None else f"multipart/form-data; boundary={boundary}"
    taken = BodyHash(about, kind)
    places = sorted(min(cut, len(body)) for cut in cuts)
    for start, end in zip([0, *places], [*places, len(body)], strict=True):
        taken.update(body[start:end])
    return taken.digest()


cuts = st.lists(st.integers(0, 400), max_size=20)


@given(contents, boundaries, boundaries, cuts, cuts)
def test_neither_a_boundary_nor_the_way_a_body_is_cut_changes_a_digest(
    parts: list[bytes], one: str, other: str, some: list[int], more: list[int]
) -> None:
    first = digest(form(one, parts), one, some)
    assert digest(form(other, parts), other, more) == first


@given(contents, contents, boundaries, cuts)
def test_other_contents_have_another_digest(
    parts: list[bytes], others: list[bytes], boundary: str, some: list[int]
) -> None:
    same = digest(form(boundary, parts), boundary, some) == digest(
        form(boundary, others), boundary, []
    )
    assert same == (parts == others)


@given(st.binary(max_size=50), cuts)
def test_what_it_is_about_counts_too(body: bytes, some: list[int]) -> None:
    assert digest(body, None, some) == digest(body, None, [])
    assert digest(body, None, some, b"POST /a") != digest(body, None, some, b"POST /b")
