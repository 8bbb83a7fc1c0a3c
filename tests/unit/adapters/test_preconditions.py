"""Versions in headers."""

import pytest

from service.adapters.preconditions import NOTHING, etag, expected
from service.errors import BadRequest, PreconditionRequired


@pytest.mark.parametrize("version", [1, 9, 10, 999_999_999])
def test_a_tag_reads_back(version: int) -> None:
    assert expected(etag(version)) == version


def test_a_star_means_that_there_is_nothing_yet() -> None:
    assert expected(None, "*") == NOTHING
    assert expected(None, " * ") == NOTHING


def test_neither_header_is_428_and_names_it() -> None:
    with pytest.raises(PreconditionRequired, match="If-None-Match") as fault:
        expected(None, None)
    assert (fault.value.status, fault.value.param) == (428, "If-Match")


@pytest.mark.parametrize(
    "given", ["", "*", "1", '"0"', '"01"', '"x"', 'W/"1"', '"1", "2"', '"1', '"-1"', '"\u0661"']
)
def test_what_is_no_one_version_is_400_and_names_the_header(given: str) -> None:
    with pytest.raises(BadRequest) as fault:
        expected(given)
    assert fault.value.param == "If-Match"


@pytest.mark.parametrize("headers", [(None, '"1"'), (None, ""), ('"1"', "*")])
def test_none_match_takes_only_the_star_and_goes_alone(headers: tuple[str | None, str]) -> None:
    with pytest.raises(BadRequest) as fault:
        expected(*headers)
    assert fault.value.param == "If-None-Match"
