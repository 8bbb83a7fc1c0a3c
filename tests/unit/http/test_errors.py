"""msgspec's messages become OpenAI's errors, which name the field."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from service.errors import Conflict, InvalidTrainingFile
from service.http.errors import body, describe_fault, detail_of, errors
from service.wire import Input


class Inner(Input):
    """A part of the body."""

    size: Annotated[int, Meta(ge=1)] = 1


class Body(Input):
    """A body whose fields have names that invite mistakes."""

    data: str
    metadata: dict[Annotated[str, Meta(max_length=2)], str] = {}
    parts: list[Inner] = []


class Arguments(msgspec.Struct):
    """As Litestar wraps a handler's arguments."""

    data: Body
    limit: int = 1


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"data": {"data": "x", "extra": 1}}, "extra", "unknown_parameter"),
        ({"data": {"data": "x", "a.b`c": 1}}, "a.b`c", "unknown_parameter"),
        ({"data": {"data": "x", "parts": [{}, {"size": 0}]}}, "parts[1].size", "invalid_value"),
        ({"data": {"data": "x", "parts": [{"sice": 0}]}}, "parts[0].sice", "unknown_parameter"),
        ({"data": {"data": "x", "metadata": {"k": 1}}}, "metadata[...]", "invalid_value"),
        ({"data": {"data": "x", "metadata": {"long": "v"}}}, "metadata", "invalid_value"),
        ({"data": {"data": 5}}, "data", "invalid_value"),
        ({"data": {}}, "data", "missing_required_parameter"),
        ({"data": []}, None, "invalid_value"),
        ({"data": {"data": "x"}, "limit": "many"}, "limit", "invalid_value"),
        ({}, None, "missing_body"),
    ],
)
def test_the_field_is_named(given: Any, param: str | None, code: str) -> None:
    with pytest.raises(msgspec.ValidationError) as fault:
        msgspec.convert(given, Arguments)
    detail = describe_fault(str(fault.value))
    assert (detail.param, detail.code) == (param, code)
    assert detail.type == "invalid_request_error"
    assert "$" not in detail.message


def test_every_documented_error_has_the_same_body() -> None:
    documented = errors(404, 409)
    assert set(documented) == {400, 401, 403, 404, 409, 429, 500}
    assert len({spec.data_container for spec in documented.values()}) == 1


def test_extra_members_stand_beside_openais() -> None:
    fault = InvalidTrainingFile("bad", errors=[(3, "not JSON")], error_count=7)
    assert body(detail_of(fault), fault.extra) == {
        "error": {
            "message": "bad",
            "type": "invalid_request_error",
            "param": "file",
            "code": "invalid_training_file",
            "errors": [{"line": 3, "reason": "not JSON"}],
            "error_count": 7,
        }
    }


def test_a_permanent_conflict_tells_clients_not_to_retry() -> None:
    assert Conflict("no").headers == {"x-should-retry": "false"}
