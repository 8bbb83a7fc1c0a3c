"""The OpenAPI document: Litestar's, plus what it does not know of our bodies and streams."""

import re
from collections.abc import Iterator
from copy import deepcopy
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from service import __version__
from service.jobs.schemas import JobEvent
from service.serving.replies import EVENTS
from service.tenants.idempotency import IDEMPOTENT, LONGEST
from service.wire import Input, Output

Json = dict[str, Any]
SCHEMAS = "#/components/schemas/"
BEARER = "apiKey"
OPEN = "/health/"
DESCRIPTION = """Fine-tune and serve one language model for many tenants.

`/v1/files`, `/v1/uploads`, `/v1/fine_tuning`, `/v1/models`, `/v1/chat/completions` and
`/v1/completions` take what OpenAI's SDKs send. Every answer carries `x-request-id`, and every
error has the same body."""

# Streams of handlers in rooms that do not know the option.
EVENTS_OF: dict[str, type] = {"listFineTuningJobEvents": JobEvent}


def config() -> OpenAPIConfig:
    """Configure Litestar's part."""
    scheme = SecurityScheme(type="http", scheme="bearer", description="`lh-...`, or the admin key.")
    return OpenAPIConfig(
        title="Lorehouse",
        version=__version__,
        description=DESCRIPTION,
        components=Components(security_schemes={BEARER: scheme}),
        security=[{BEARER: []}],
        use_handler_docstrings=True,
        render_plugins=[_Document(path=["/openapi.json", "/"], media_type=MediaType.JSON)],
    )


def document(app: Litestar) -> Json:
    """Make the whole document; same code, same document."""
    made: Json = deepcopy(app.openapi_schema.to_schema())
    schemas = made["components"]["schemas"]
    for handler in _handlers(app):
        for operation in _operations(made, handler):
            _finish(operation, handler, schemas)
    _describe_structs(schemas)
    _name_request_ids(made)
    made["paths"] = dict(sorted(made["paths"].items()))
    made["components"]["schemas"] = dict(sorted(schemas.items()))
    return made


def render(made: Json) -> bytes:
    """Write the document as it is committed."""
    return msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"


class _Document(JsonRenderPlugin):
    """Serves the document alone: a page would load its code from elsewhere."""

    _rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], _: Json) -> bytes:
        if self._rendered is None:
            self._rendered = render(document(request.app))
        return self._rendered


def _handlers(app: Litestar) -> Iterator[HTTPRouteHandler]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if isinstance(handler, HTTPRouteHandler) and handler.resolve_include_in_schema():
                yield handler


def _operations(made: Json, handler: HTTPRouteHandler) -> Iterator[Json]:
    for path, item in made["paths"].items():
        for operation in item.values():
            if isinstance(operation, dict) and operation["operationId"] == handler.operation_id:
                if path.startswith(OPEN):
                    operation["security"] = []
                yield operation


def _finish(operation: Json, handler: HTTPRouteHandler, schemas: Json) -> None:
    operation_id = str(handler.operation_id)
    operation["description"] = cleandoc(operation["description"])
    operation["summary"] = handler.summary or _in_words(operation_id)
    operation["tags"] = [tag[:1].upper() + tag[1:] for tag in operation["tags"]]
    if (events := handler.opt.get(EVENTS, EVENTS_OF.get(operation_id))) is not None:
        operation["responses"]["200"]["content"]["text/event-stream"] = {
            "schema": _schema_of(events, schemas)
        }
    for parameter in operation.get("parameters", ()):
        _never_null(parameter["schema"])
    if handler.opt.get(IDEMPOTENT):
        _document_key(operation)
    if "requestBody" in operation:
        _add_errors(operation, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _document_key(operation: Json) -> None:
    """Say of a creating operation that it may be sent again."""
    operation.setdefault("parameters", []).append(
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "The same request under the same key is carried out once, and answered "
            "as the first time (`idempotent-replayed: true`) for a day.",
            "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST},
        }
    )
    _add_errors(operation, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)


def _add_errors(operation: Json, *statuses: HTTPStatus) -> None:
    """Describe what the server may refuse whatever the handler does."""
    responses = operation["responses"]
    for status in statuses:
        described = {"description": status.phrase, "content": responses["401"]["content"]}
        responses.setdefault(str(status.value), described)
    operation["responses"] = dict(sorted(responses.items()))


def _never_null(schema: Json) -> None:
    """A parameter may be left out, but its text is never null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema |= kinds[0]


def _in_words(operation_id: str) -> str:
    """Make `createFineTuningJob` into `Create fine tuning job`."""
    return re.sub("[A-Z]", lambda letter: " " + letter[0].lower(), operation_id).capitalize()


def _schema_of(struct: type, schemas: Json) -> Json:
    """Describe a type that no handler names, its parts included."""
    (schema,), parts = msgspec.json.schema_components([struct], ref_template=SCHEMAS + "{name}")
    for name, part in parts.items():
        schemas.setdefault(name, part)
    return dict(schema)


def _describe_structs(schemas: Json) -> None:
    """Take msgspec's schemas, which say what is checked.

    Litestar's forget that inputs refuse unknown fields, the limits of what may also be null, the
    discriminators of unions, and what the structs are for.
    """
    structs = [s for s in (*_subclasses(Input), *_subclasses(Output)) if s.__name__ in schemas]
    _, described = msgspec.json.schema_components(structs, ref_template=SCHEMAS + "{name}")
    schemas.update(described)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])


def _subclasses(struct: type[Any]) -> Iterator[type[Any]]:
    for sub in struct.__subclasses__():
        if sub.__module__.startswith("service."):
            yield sub
        yield from _subclasses(sub)


def _name_request_ids(made: Json) -> None:
    made["components"]["headers"] = {
        "RequestId": {
            "description": "Names this request in the server's logs: the client's own, or made.",
            "schema": {"type": "string"},
        }
    }
    for item in made["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                header = {"$ref": "#/components/headers/RequestId"}
                response.setdefault("headers", {})["x-request-id"] = header
