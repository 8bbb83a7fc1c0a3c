"""The bodies that are not JSON, as the OpenAPI document describes them."""

from dataclasses import dataclass
from typing import Annotated, Any

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)
from msgspec import UNSET, Meta, UnsetType

from service.datasets.schemas import ANCHOR, PURPOSES, SECONDS, LineFault
from service.http.errors import ErrorDetail, errors
from service.wire import Output


class FileErrorDetail(ErrorDetail):
    """What went wrong. With the code `invalid_training_file` also in which lines."""

    errors: Annotated[
        list[LineFault] | UnsetType, Meta(description="The lines at fault, at most 100 of them.")
    ] = UNSET
    error_count: Annotated[int | UnsetType, Meta(description="All lines at fault.")] = UNSET


class FileErrorBody(Output):
    """The body of an answer that refuses a file."""

    error: FileErrorDetail


def with_line_faults(*statuses: int) -> dict[int, ResponseSpec]:
    """Document error answers of a handler that may find a training file at fault."""
    faulty = ResponseSpec(
        data_container=FileErrorBody, description="Bad Request", generate_examples=False
    )
    return {**errors(*statuses), 400: faulty}


def binary(description: str) -> Schema:
    """Describe a file part."""
    return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=description)


def form(required: list[str], properties: dict[str, Schema], **rules: Any) -> RequestBody:
    """Describe a form that has these parts and no other, and keeps to JSON Schema's `rules`."""
    schema = Schema(
        type=OpenAPIType.OBJECT,
        required=required,
        properties=dict(properties),
        additional_properties=False,
        **rules,
    )
    return RequestBody(content={"multipart/form-data": OpenAPIMediaType(schema)}, required=True)


@dataclass
class FileForm(Operation):
    """The body of `createFile`."""

    def __post_init__(self) -> None:
        """Describe what the handler reads off the stream by itself."""
        expiry = "Optional; when the file disappears by itself."
        self.request_body = form(
            ["file", "purpose"],
            {
                "file": binary("The file. With the purpose `fine-tune` it is JSON Lines."),
                "purpose": Schema(type=OpenAPIType.STRING, enum=list(PURPOSES)),
                ANCHOR: Schema(type=OpenAPIType.STRING, enum=["created_at"], description=expiry),
                SECONDS: Schema(
                    type=OpenAPIType.INTEGER, minimum=3600, maximum=2592000, description=expiry
                ),
            },
            dependent_required={ANCHOR: [SECONDS], SECONDS: [ANCHOR]},
        )


@dataclass
class PartForm(Operation):
    """The body of `createUploadPart`."""

    def __post_init__(self) -> None:
        """Describe what the handler reads off the stream by itself."""
        self.request_body = form(["data"], {"data": binary("At most 64 MiB of the file.")})
