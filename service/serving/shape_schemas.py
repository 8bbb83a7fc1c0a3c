"""`response_format` and `tools` of a chat request on the wire: OpenAI's shapes."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from service.serving.schemas import Refused
from service.wire import Input

MOST_TOOLS = 128

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class JsonSchemaFormat(Input):
    """The JSON Schema that the answer keeps to, whatever `strict` says."""

    name: Name
    description: str | None = None
    schema: Annotated[
        dict[str, Any] | None,
        Meta(description="Required. What llguidance cannot keep to is refused, with the reason."),
    ] = None
    strict: bool | None = None


class ResponseFormat(Input):
    """What the answer is: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[
        JsonSchemaFormat | None, Meta(description="Required of the type `json_schema`.")
    ] = None


class FunctionDefinition(Input):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Annotated[
        dict[str, Any] | None, Meta(description="A JSON Schema of its arguments: an object.")
    ] = None
    strict: Annotated[
        bool | None,
        Meta(description="Whether arguments keep to the schema; they do in any forced call."),
    ] = None


class Tool(Input):
    """A tool. Only functions are supported."""

    type: Literal["function", "custom"]
    function: FunctionDefinition | None = None
    custom: Refused = None


class NamedFunction(Input):
    """One of the functions of `tools`."""

    name: str


class NamedTool(Input):
    """The function that must be called."""

    type: Literal["function", "custom", "allowed_tools"]
    function: NamedFunction | None = None
    custom: Refused = None
    allowed_tools: Refused = None


class GivenFunction(Input):
    """The function that was called."""

    name: str
    arguments: Annotated[str, Meta(description="JSON, as the model wrote it.")]
    parsed_arguments: Annotated[Any, Meta(description="SDKs send it back; not read.")] = None


class GivenCall(Input, kw_only=True):
    """A call that an assistant's message made."""

    id: str
    type: Literal["function"] = "function"
    function: GivenFunction
    index: Annotated[int | None, Meta(description="SDKs send it back; not read.")] = None


ToolChoice = Literal["none", "auto", "required"] | NamedTool
