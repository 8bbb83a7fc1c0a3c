"""Whatever comes in: OpenAI's error body, a request id, one log line, right counts."""

import json
from typing import Any

import httpx
import pytest
from litestar import Litestar, get
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from service.telemetry import configure_logging

TENANTS = "/v1/admin/tenants"


def assert_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert answer.headers["x-request-id"]
    return error


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"not json",
        b"\xff\xfe",
        b'{"id": "\xff"}',
        b"[" * 200_000,
        b'{"id":' * 20_000,
        b'{"id": "acme"} {}',
        b'{"id": NaN}',
        b'{"id": "\\ud800"}',
        b"",
        b"null",
        b"[]",
        b'"acme"',
        b"5",
    ],
)
async def test_a_body_that_is_not_a_json_object_is_400(
    admin: httpx.AsyncClient, content: bytes
) -> None:
    answer = await admin.post(TENANTS, content=content)
    assert assert_error(answer, 400)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"id": NaN}', "request: JSON is malformed: invalid character (byte 7)."),
        (b'{"id": 1e400}', "request: Number out of range."),
        (b'{"id": "secret', "request: Input data was truncated."),
        (b"[" * 200_000, "request."),
    ],
)
async def test_what_is_not_json_is_told_with_its_place(
    admin: httpx.AsyncClient, content: bytes, why: str
) -> None:
    error = assert_error(await admin.post(TENANTS, content=content), 400)
    assert error["code"] == "invalid_body"
    assert error["message"].endswith(why)


async def test_an_unknown_field_is_named(acme: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    error = assert_error(await admin.post(TENANTS, json={"id": "x", "plan": "gold"}), 400)
    assert (error["param"], error["code"]) == ("plan", "unknown_parameter")
    body = {"model": "m", "training_file": "f", "method": {"type": "supervised", "speed": 1}}
    error = assert_error(await acme.post("/v1/fine_tuning/jobs", json=body), 400)
    assert (error["param"], error["code"]) == ("method.speed", "unknown_parameter")


async def test_unknown_routes_and_methods(admin: httpx.AsyncClient) -> None:
    assert assert_error(await admin.get("/v1/nothing"), 404)["code"] == "unknown_url"
    assert assert_error(await admin.get("/nothing"), 404)["code"] == "unknown_url"
    refused = await admin.put(TENANTS, json={})
    assert assert_error(refused, 405)["code"] == "method_not_allowed"
    assert set(refused.headers["allow"].split(", ")) >= {"GET", "POST"}


async def test_a_json_body_over_the_limit_is_413(admin: httpx.AsyncClient) -> None:
    assert_error(await admin.post(TENANTS, content=b" " * 10_000_001), 413)

    async def chunks() -> Any:
        for _ in range(11):
            yield b" " * 1_000_000

    assert_error(await admin.post(TENANTS, content=chunks()), 413)


async def test_what_we_did_not_foresee_tells_nothing_and_is_logged(app: Litestar) -> None:
    @get("/v1/broken", guards=[], sync_to_thread=False)
    def broken() -> None:
        raise RuntimeError("password of the database")

    app.register(broken)
    transport = httpx.ASGITransport(app)
    headers = {"authorization": "Bearer the-operators-own-key", "x-request-id": "mine"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with capture_logs([merge_contextvars]) as logs:
            answer = await client.get("/v1/broken", headers=headers)
    error = assert_error(answer, 500)
    assert error["code"] == "internal_error"
    assert "password" not in answer.text
    failed = [line for line in logs if line["event"] == "request.failed"]
    assert [line["request_id"] for line in failed] == ["mine"]
    assert isinstance(failed[0]["exc_info"], RuntimeError)


async def test_the_request_id_is_the_clients_or_made(client: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/v1/nothing", "/v1/models", "/schema"):
        taken = await client.get(path, headers={"x-request-id": "abc-1"})
        assert taken.headers["x-request-id"] == "abc-1", path
        made = await client.get(path, headers={"x-request-id": "not sane\t"})
        assert made.headers["x-request-id"].startswith("req_"), path


async def test_one_log_line_for_each_request_by_route_never_by_path(
    acme: httpx.AsyncClient,
) -> None:
    with capture_logs([merge_contextvars]) as logs:
        await acme.get("/v1/models/secret-name?key=secret", headers={"x-request-id": "one"})
    (line,) = [line for line in logs if line["event"] == "request.answered"]
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request.answered",
        "log_level": "info",
        "method": "GET",
        "route": "/v1/models/{model}",
        "status": 404,
        "tenant": "acme",
        "request_id": "one",
    }


async def test_probes_are_logged_at_debug_level(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        await client.get("/health/live")
    assert [(line["event"], line["log_level"]) for line in logs] == [("request.answered", "debug")]


async def test_metrics_count_every_answer_by_route(admin: httpx.AsyncClient) -> None:
    await admin.get(TENANTS)
    await admin.get(f"{TENANTS}/nobody")
    await admin.put(TENANTS)
    await admin.request("BREW", "/coffee")
    await admin.post(TENANTS, content=b" " * 10_000_001)
    text = (await admin.get("/metrics")).text
    for labels in (
        'method="GET",route="/v1/admin/tenants",status="200"',
        'method="GET",route="/v1/admin/tenants/{tenant}",status="404"',
        'method="PUT",route="unmatched",status="405"',
        'method="OTHER",route="unmatched",status="404"',
        'method="POST",route="/v1/admin/tenants",status="413"',
    ):
        assert f"lorehouse_http_requests_total{{{labels}}} 1.0" in text, labels
    assert "nobody" not in text
    assert "coffee" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "0.5"),
        ("stream", "false"),
        ("n", "1"),
        ("max_tokens", "7"),
        ("seed", True),
        ("logprobs", 1),
    ],
)
async def test_a_field_of_another_type_is_not_converted(
    acme: httpx.AsyncClient, field: str, value: object
) -> None:
    asked = {"model": "lorehouse-tiny", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await acme.post("/v1/chat/completions", json={**asked, field: value})
    assert assert_error(answer, 400)["param"] == field


async def test_a_parameter_that_was_left_out_is_named(acme: httpx.AsyncClient) -> None:
    answer = await acme.get("/v1/usage")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "start_time"
    assert answer.json()["error"]["code"] == "missing_required_parameter"


async def test_options_name_all_that_a_path_takes(acme: httpx.AsyncClient) -> None:
    answer = await acme.options("/v1/files")
    assert answer.status_code == 204
    assert answer.headers["allow"] == "GET, OPTIONS, POST"


async def test_to_json_a_whole_float_is_an_integer(acme: httpx.AsyncClient) -> None:
    chat = {"model": "lorehouse-tiny", "messages": [{"role": "user", "content": "hi"}]}
    assert (await acme.post("/v1/chat/completions", json=chat | {"n": 1.0})).status_code == 200
    refused = await acme.post("/v1/chat/completions", json=chat | {"n": 1.5})
    assert refused.json()["error"]["param"] == "n"
    assert (await acme.post("/v1/chat/completions", json=chat | {"n": "1"})).status_code == 400


async def test_lines_carry_the_request_and_its_tenant(
    acme: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], logging_restored: None
) -> None:
    configure_logging("info")
    form = {"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "user_data"}}
    await acme.post("/v1/files", **form, headers={"x-request-id": "mine"})  # type: ignore[arg-type]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (created,) = [line for line in lines if line["event"] == "file.created"]
    assert (created["request_id"], created["tenant"]) == ("mine", "acme")
