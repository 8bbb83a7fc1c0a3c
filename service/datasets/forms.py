"""The bodies that are not JSON, as the OpenAPI document describes them."""

from dataclasses import dataclass

from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from service.datasets.schemas import ANCHOR, PURPOSES, SECONDS


def _binary(description: str) -> Schema:
    return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=description)


def _form(required: list[str], properties: dict[str, Schema]) -> RequestBody:
    schema = Schema(
        type=OpenAPIType.OBJECT,
        required=required,
        properties=dict(properties),
        additional_properties=False,
    )
    return RequestBody(content={"multipart/form-data": OpenAPIMediaType(schema)}, required=True)


@dataclass
class FileForm(Operation):
    """The body of `createFile`."""

    def __post_init__(self) -> None:
        """Describe what the handler reads off the stream by itself."""
        expiry = "Optional; when the file disappears by itself."
        self.request_body = _form(
            ["file", "purpose"],
            {
                "file": _binary("The file. With the purpose `fine-tune` it is JSON Lines."),
                "purpose": Schema(type=OpenAPIType.STRING, enum=list(PURPOSES)),
                ANCHOR: Schema(type=OpenAPIType.STRING, enum=["created_at"], description=expiry),
                SECONDS: Schema(
                    type=OpenAPIType.INTEGER, minimum=3600, maximum=2592000, description=expiry
                ),
            },
        )


@dataclass
class PartForm(Operation):
    """The body of `createUploadPart`."""

    def __post_init__(self) -> None:
        """Describe what the handler reads off the stream by itself."""
        self.request_body = _form(["data"], {"data": _binary("At most 64 MiB of the file.")})
