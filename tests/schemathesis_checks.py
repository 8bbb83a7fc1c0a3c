"""Checks of ours for Schemathesis, which loads this file by its name."""

import re

import schemathesis
from schemathesis import Case, CheckContext, Response

DECODERS = frozenset({"invalid_body", "missing_body", "unknown_parameter"})
"""Codes of errors that are found while a body is read, before anybody looks at what it asks for."""
WORDS = re.compile(r"Invalid (value for '[^']*'|request body): Expected ")


@schemathesis.check
def document_refuses_what_the_decoder_refuses(
    _: CheckContext, response: Response, case: Case
) -> None:
    """A request that the document calls valid must be readable, whatever it asks for."""
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if not positive or response.status_code != 400:
        return
    error = response.json()["error"]
    if error["code"] in DECODERS or WORDS.match(error["message"]):
        raise AssertionError(f"The document allows what the decoder refuses: {error['message']}")
