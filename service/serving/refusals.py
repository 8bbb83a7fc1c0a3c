"""Fields of OpenAI's that would change the meaning of an answer, and are not supported yet. Pure.

Each is accepted at the values that ask for nothing, since SDKs and frameworks send those freely,
and refused by name at any other: ignoring it would give an answer that was not asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import UnsupportedField

Neutral = Mapping[str, Sequence[Any]]

CHAT: Neutral = {
    "functions": [[]],
    "function_call": ["none", "auto"],
    "modalities": [["text"]],
    "audio": [],
    "prediction": [],
    "web_search_options": [],
    "moderation": [],
    "reasoning_effort": ["none"],
    "verbosity": ["medium"],
}
COMPLETION: Neutral = {"suffix": [""], "echo": [False]}
STREAM_OPTIONS: Neutral = {"include_obfuscation": [False]}
MESSAGE: Neutral = {"refusal": [], "audio": [], "function_call": [], "annotations": [[]]}


def refuse(body: object, neutral: Neutral, path: str = "") -> None:
    """Raise UnsupportedField for the first field of `body` that asks for what we cannot do."""
    for field, values in neutral.items():
        given = getattr(body, field)
        if given is not None and given not in values:
            name = f"{path}.{field}" if path else field
            raise UnsupportedField(f"'{name}' is not supported by this server.", param=name)
