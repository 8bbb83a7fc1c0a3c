"""Compare-and-set over HTTP: which version of a thing a request was made for. Pure."""

import re

from service.errors import BadRequest, PreconditionRequired

IF_MATCH, IF_NONE_MATCH = "If-Match", "If-None-Match"
NOTHING = 0
"""The version of what is not there."""
ETAG_PATTERN = '"([1-9][0-9]{0,8})"'
_ETAG = re.compile(ETAG_PATTERN, re.ASCII)


def etag(version: int) -> str:
    """Write a version as an entity tag."""
    return f'"{version}"'


def expected(if_match: str | None, if_none_match: str | None = None) -> int:
    """Read the version that the client saw, or NOTHING.

    Raises BadRequest, and PreconditionRequired when it names none.
    """
    if if_match is not None and if_none_match is not None:
        raise BadRequest(f"Send {IF_MATCH} or {IF_NONE_MATCH}, not both.", param=IF_NONE_MATCH)
    if if_none_match is not None:
        return _nothing(if_none_match)
    if if_match is None:
        message = (
            f'Send the header {IF_MATCH}: "N" with the version that you saw, or '
            f"{IF_NONE_MATCH}: * to create."
        )
        raise PreconditionRequired(message, param=IF_MATCH)
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise BadRequest(f'{IF_MATCH} takes one version in quotes, like "3".', param=IF_MATCH)
    return int(found[1])


def _nothing(given: str) -> int:
    if given.strip() != "*":
        message = f"{IF_NONE_MATCH} takes only *: there must be none yet."
        raise BadRequest(message, param=IF_NONE_MATCH)
    return NOTHING
