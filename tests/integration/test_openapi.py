"""The document is what a code generator needs, and the committed one is the current one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator

from service.maintenance import openapi_document

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    made: Json = msgspec.json.decode(openapi_document())
    return made


@pytest.fixture(scope="module")
def operations(document: Json) -> list[tuple[str, Json]]:
    return [
        (f"{method} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    if isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document: Json, reference: str) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_the_committed_document_is_the_current_one() -> None:
    assert COMMITTED.read_bytes() == openapi_document(), "run `make openapi`"


async def test_a_running_server_gives_the_same_document(client: httpx.AsyncClient) -> None:
    for path in ("/schema", "/schema/openapi.json"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.content == COMMITTED.read_bytes()


def test_it_is_openapi_3_1_and_names_the_house(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "Lorehouse"
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    assert document["security"] == [{"apiKey": []}]


def test_every_reference_leads_somewhere(document: Json) -> None:
    for reference in set(references(document)):
        assert isinstance(resolve(document, reference), dict)


def test_every_schema_is_a_json_schema(document: Json) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_component_is_described(document: Json) -> None:
    bare = [
        name
        for name, schema in document["components"]["schemas"].items()
        if not schema.get("description")
    ]
    assert bare == []


def test_operation_ids_are_unique(operations: list[tuple[str, Json]]) -> None:
    ids = [operation["operationId"] for _, operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(name[:1].islower() and name.isalnum() for name in ids)


def test_every_operation_is_described(operations: list[tuple[str, Json]]) -> None:
    for name, operation in operations:
        assert operation["description"], name
        assert operation["summary"], name
        assert operation["tags"], name
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], name


def test_every_path_parameter_is_declared(operations: list[tuple[str, Json]]) -> None:
    for name, operation in operations:
        declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert declared == {part.partition("}")[0] for part in name.split("{")[1:]}, name


def test_every_keyed_operation_documents_its_errors(
    document: Json, operations: list[tuple[str, Json]]
) -> None:
    detail_fields = {"message", "type", "param", "code"}
    for name, operation in operations:
        if " /health/" in name:
            assert operation["security"] == [], name
            continue
        expected = {"400", "401", "403", "500"} | ({"404"} if "{" in name else set())
        expected |= {"413"} if "requestBody" in operation else set()
        assert expected <= set(operation["responses"]), name
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                detail = resolve(document, schema["$ref"])["properties"]["error"]
                assert detail_fields <= set(resolve(document, detail["$ref"])["required"]), name


def test_every_answer_carries_a_request_id(operations: list[tuple[str, Json]]) -> None:
    for name, operation in operations:
        for status, response in operation["responses"].items():
            assert "x-request-id" in response["headers"], (name, status)


def test_json_inputs_are_closed_and_outputs_complete(
    document: Json, operations: list[tuple[str, Json]]
) -> None:
    inputs, outputs = set(), set()
    for _, operation in operations:
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            inputs |= set(references(operation["requestBody"]))
        for response in operation["responses"].values():
            for kind, media in response.get("content", {}).items():
                outputs |= set(references(media)) if kind == "application/json" else set()
    assert inputs
    for reference in inputs:
        assert resolve(document, reference)["additionalProperties"] is False, reference
    for reference in outputs:
        schema = resolve(document, reference)
        assert set(schema["required"]) == set(schema["properties"]), reference


@pytest.mark.parametrize(
    "operation_id",
    ["createChatCompletion", "createCompletion", "generate", "listFineTuningJobEvents"],
)
def test_streams_are_documented_as_such(
    operations: list[tuple[str, Json]], operation_id: str
) -> None:
    (operation,) = [o for _, o in operations if o["operationId"] == operation_id]
    content = operation["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert content["text/event-stream"]["schema"]["$ref"]


def test_multipart_bodies_are_documented(operations: list[tuple[str, Json]]) -> None:
    bodies = {
        operation["operationId"]: operation["requestBody"]["content"]["multipart/form-data"]
        for _, operation in operations
        if "multipart/form-data" in operation.get("requestBody", {}).get("content", {})
    }
    assert bodies["createFile"]["schema"]["required"] == ["file", "purpose"]
    assert bodies["createUploadPart"]["schema"]["required"] == ["data"]
