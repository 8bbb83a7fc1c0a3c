"""`{{ namespace.path }}` in a grader's texts: substitution, and nothing else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.training.graders.faults import GraderFault

OUTPUT = "sample.output_text"

_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_ITEM = re.compile(r"item((?:\.[A-Za-z_]\w*|\[\d{1,6}\])+)", re.ASCII)
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]", re.ASCII)

Path = tuple[str | int, ...]


class Text(msgspec.Struct, frozen=True):
    """A template, taken apart: plain text, and between each two of them what stands there."""

    plain: tuple[str, ...]
    places: tuple[Path | None, ...]
    """A path into the item, or None for the answer."""

    def fill(self, answer: str, item: Mapping[str, Any]) -> str:
        """Put the values in. Raises GraderFault for a path that the item does not have."""
        found = (answer if path is None else _spell(look_up(item, path)) for path in self.places)
        return self.plain[0] + "".join(
            value + text for value, text in zip(found, self.plain[1:], strict=True)
        )


def parse(template: str, param: str) -> Text:
    """Take a template apart. Raises GraderFault for anything but our two kinds of places."""
    # Splitting by a pattern with one group alternates text and what the group caught.
    parts = _PLACE.split(template)
    for text in parts[::2]:
        if "{{" in text or "}}" in text:
            raise GraderFault("'{{' and '}}' must come in pairs", param)
    return Text(tuple(parts[::2]), tuple(_place(place.strip(), param) for place in parts[1::2]))


def look_up(item: Mapping[str, Any], path: Path) -> Any:
    """Follow a path. Raises GraderFault where it leads nowhere."""
    value: Any = item
    for step in path:
        try:
            value = value[step] if _fits(value, step) else None
        except (KeyError, IndexError):
            value = None
        if value is None:
            raise GraderFault(f"there is no item{_write(path)}")
    return value


def _fits(value: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, Mapping)


def _place(place: str, param: str) -> Path | None:
    if place == OUTPUT:
        return None
    found = _ITEM.fullmatch(place)
    if found is None:
        message = (
            f"'{{{{ {place[:100]} }}}}' is neither {{{{ {OUTPUT} }}}} nor {{{{ item.field }}}}"
        )
        raise GraderFault(message, param)
    steps = _STEP.findall(found[1])
    return tuple(name or int(index) for name, index in steps)


def _write(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
