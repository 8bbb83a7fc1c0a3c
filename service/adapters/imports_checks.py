"""What an import asks for: is it well-formed, and how is it told what is wrong? Pure."""

from collections.abc import Collection

from adapters_store.intake import Arrival
from service.adapters import names
from service.adapters.imports_schemas import ARCHIVE, CONFIG, FORMATS, WEIGHTS, ImportAdapter
from service.errors import BadRequest


def check_wish(wish: ImportAdapter, base: str) -> None:
    """Raise BadRequest unless the names can be had."""
    if not names.is_name(wish.adapter):
        raise BadRequest(f"An adapter's name matches ^{names.PATTERN}$.", param="adapter")
    if wish.adapter in names.RESERVED or wish.adapter == base:
        raise BadRequest(f"The name '{wish.adapter}' is reserved.", param="adapter")
    if wish.alias is not None and not names.is_alias(wish.alias):
        message = f"An alias matches ^{names.PATTERN}$ and does not read as a revision."
        raise BadRequest(message, param="alias")
    if wish.reason is not None and wish.alias is None:
        raise BadRequest("A reason is kept with the alias that moves: name one.", param="reason")


def check_parts(parts: Collection[str]) -> None:
    """Raise BadRequest unless the form holds an archive, or both of PEFT's files."""
    if set(parts) not in ({ARCHIVE}, {CONFIG, WEIGHTS}):
        message = f"The form needs the file part '{ARCHIVE}', or '{CONFIG}' and '{WEIGHTS}'."
        raise BadRequest(message, param=ARCHIVE)


def format_of(arrival: Arrival) -> str:
    """Give the format that an export says it is of, else `chat`."""
    given = None if arrival.manifest is None else arrival.manifest.origin.format
    return given if given in FORMATS else FORMATS[0]


def refusal(fault: str, parts: Collection[str]) -> BadRequest:
    """Say what is wrong with the files, and name the form's part that is at fault."""
    param = ARCHIVE if ARCHIVE in parts else WEIGHTS
    if ARCHIVE not in parts and fault.startswith(CONFIG):
        param = CONFIG
    message = f"The adapter cannot be imported: {fault}"
    return BadRequest(message, param=param, code="invalid_adapter")
