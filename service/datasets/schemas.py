"""`/v1/files` on the wire: OpenAI's File object, with what parsing a training file found."""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from service.errors import BadRequest, MissingParameter
from service.rendering.examples import RowFormat
from service.wire import Input, Output

Purpose = Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
FINE_TUNE: Purpose = "fine-tune"

ANCHOR = "expires_after[anchor]"
SECONDS = "expires_after[seconds]"


class ExpiresAfter(Input):
    """When the file disappears by itself, counted from its creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2592000)]


class File(Output):
    """A stored file. The last four fields are of training files only."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Annotated[
        Literal["uploaded", "processed", "error"],
        Meta(description="Always `processed`: a file that cannot be is refused at once."),
    ]
    status_details: str | None
    format: Annotated[RowFormat | None, Meta(description="The shape of its rows.")]
    rows: Annotated[int | None, Meta(description="Its number of examples.")]
    tokens: Annotated[int | None, Meta(description="Tokens of all examples, rendered, once.")]
    longest_example: Annotated[int | None, Meta(description="Tokens of the longest example.")]


class FileList(Output):
    """A page of files."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LineFault(Output):
    """Why a line of a training file cannot be trained on. Lines count from 1."""

    line: int
    reason: str


def purpose_of(fields: dict[str, str]) -> Purpose:
    """Read the form's purpose; raises BadRequest."""
    given = fields.get("purpose")
    for purpose in PURPOSES:
        if given == purpose:
            return purpose
    if given is None:
        raise MissingParameter("purpose")
    raise BadRequest(f"'purpose' must be one of {', '.join(PURPOSES)}.", param="purpose")


def expires_after_of(fields: dict[str, str]) -> ExpiresAfter | None:
    """Read the form's `expires_after`, as SDKs flatten it; raises BadRequest."""
    given = {"anchor": fields.get(ANCHOR), "seconds": fields.get(SECONDS)}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    try:
        return msgspec.convert(given, ExpiresAfter, strict=False)
    except msgspec.ValidationError as fault:
        reason, _, field = str(fault).partition(" - at `$.")
        param = f"expires_after.{field.rstrip('`')}" if field else "expires_after"
        raise BadRequest(f"Invalid value for '{param}': {reason}", param=param) from None
