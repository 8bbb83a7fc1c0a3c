"""What a tenant may be called: the name is in paths, file names and model names."""

import re

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def is_name(text: str) -> bool:
    """Whether the whole text is a name (a `$` would let a line feed follow it)."""
    return NAME.fullmatch(text) is not None
