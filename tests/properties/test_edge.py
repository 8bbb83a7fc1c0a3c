"""Whatever a client sends, the edge names the field and keeps its own lines clean."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.http.errors import describe_fault
from service.http.exchange import SANE_ID, request_id
from service.tenants.names import is_name
from service.wire import Input


class Leaf(Input):
    """The innermost object."""

    size: int = 0


class Branch(Input):
    """A body of some depth."""

    leaves: list[Leaf] = []
    leaf: Leaf | None = None


class Arguments(msgspec.Struct):
    """As Litestar wraps a handler's arguments."""

    data: Branch


def fault_of(body: object) -> str:
    try:
        msgspec.convert({"data": body}, Arguments)
    except msgspec.ValidationError as fault:
        return str(fault)
    raise AssertionError("accepted")


unknown = st.text(min_size=1).filter(lambda name: name not in {"leaves", "leaf", "size"})
plain = unknown.filter(lambda name: "`" not in name)


@given(plain, st.integers(0, 5))
def test_an_unknown_field_is_named_wherever_it_is(name: str, index: int) -> None:
    deep = {"leaves": [*({} for _ in range(index)), {name: 1}]}
    assert describe_fault(fault_of({name: 1})).param == name
    assert describe_fault(fault_of({"leaf": {name: 1}})).param == f"leaf.{name}"
    assert describe_fault(fault_of(deep)).param == f"leaves[{index}].{name}"


@given(unknown)
def test_no_name_of_a_field_breaks_the_answer(name: str) -> None:
    detail = describe_fault(fault_of({name: 1}))
    assert detail.message
    assert detail.type == "invalid_request_error"


@given(st.text())
def test_any_message_is_described(message: str) -> None:
    assert describe_fault(message).message


@given(st.none() | st.text())
def test_request_ids_are_always_plain(given_id: str | None) -> None:
    assert SANE_ID.fullmatch(request_id(given_id))


@given(st.text())
def test_a_tenants_name_is_safe_in_a_path(text: str) -> None:
    if is_name(text):
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set("/\\ %:@")
        assert text not in {".", ".."}
