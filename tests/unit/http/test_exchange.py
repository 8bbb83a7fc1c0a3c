"""Request ids go into logs and headers: only short, plain ones are taken over."""

import pytest

from service.http.exchange import SANE_ID, request_id


@pytest.mark.parametrize("given", ["a", "req_1", "4f0c2e-AB.9", "x" * 128])
def test_a_plain_id_is_kept(given: str) -> None:
    assert request_id(given) == given


@pytest.mark.parametrize("given", [None, "", " ", "a b", "a\n", "a\r\nx: y", "é", "-a", "x" * 129])
def test_any_other_is_replaced(given: str | None) -> None:
    made = request_id(given)
    assert made != given
    assert SANE_ID.fullmatch(made)


def test_made_ids_differ() -> None:
    assert request_id(None) != request_id(None)
