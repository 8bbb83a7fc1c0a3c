"""adapter_config.json: what of PEFT's LoRA we can serve, and its canonical form. Pure."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from adapters_store.errors import InvalidAdapter
from adapters_store.layout import CONFIG_FILE

MAX_BYTES = 1 << 20
MAX_DEPTH = 8

# Fields with a meaning that is checked below, and those whose value changes nothing at inference.
_CHECKED = {"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias"}
_PATTERNS = {"rank_pattern", "alpha_pattern"}
_INERT = {
    "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode",
    "megatron_core", "qalora_group_size", "use_rslora", "fan_in_fan_out", "init_lora_weights",
}  # fmt: skip
# PiSSA, OLoRA, CorDA and LoftQ change the base's weights when PEFT loads the adapter.
_HARMLESS_INITS = (True, False, "gaussian")

# PEFT takes target modules and pattern keys as regular expressions: those are a way to hang us.
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MAX_MODULES = 1024
_LARGEST = 1e6


class AdapterConfig(msgspec.Struct, frozen=True):
    """The part that the weights are held to."""

    rank: int
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    target_modules: frozenset[str]

    def targets_of(self, module: str) -> frozenset[str]:
        """Find the targets that name `module`."""
        return self.target_modules.intersection(_ends(module))

    def rank_of(self, module: str) -> int:
        """Tell a module's rank. Raises InvalidAdapter if patterns contradict each other."""
        _only(self.alpha_pattern, module, "alpha_pattern")
        rank = _only(self.rank_pattern, module, "rank_pattern")
        return self.rank if rank is None else int(rank)


def parse(content: bytes) -> dict[str, Any]:
    """Read a JSON object with bounds. Raises InvalidAdapter."""
    if len(content) > MAX_BYTES:
        raise _fault(f"is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError:
        raise _fault(f"is nested deeper than {MAX_DEPTH}") from None
    except ValueError as fault:
        raise _fault(f"is not JSON: {fault}") from None
    if not isinstance(document, dict):
        raise _fault("is not an object")
    if _depth(document) > MAX_DEPTH:
        raise _fault(f"is nested deeper than {MAX_DEPTH}")
    return document


def check(document: dict[str, Any]) -> AdapterConfig:
    """Hold it to what can be served: plain LoRA on named modules. Raises InvalidAdapter."""
    _expect(document, "peft_type", document.get("peft_type") == "LORA", "must be LORA")
    _expect(document, "task_type", document.get("task_type") in (None, "CAUSAL_LM"), "is foreign")
    _expect(document, "bias", document.get("bias", "none") == "none", "must be none")
    init = document.get("init_lora_weights", True)
    _expect(document, "init_lora_weights", init in _HARMLESS_INITS, "changes the base's weights")
    for field in ("use_rslora", "fan_in_fan_out", "inference_mode"):
        _expect(document, field, isinstance(document.get(field, False), bool), "must be a boolean")
    for field in sorted(document.keys() - _CHECKED - _PATTERNS - _INERT):
        # Not by truth: `layers_to_transform: 0` means the first layer.
        absent = document[field] in (None, {}, []) or document[field] is False
        _expect(document, field, absent, "is not supported")
    _check_numbers(document)
    return AdapterConfig(
        rank=document["r"],
        rank_pattern=_pattern(document, "rank_pattern", _is_rank),
        alpha_pattern=_pattern(document, "alpha_pattern", _is_positive),
        target_modules=_target_modules(document),
    )


def canonical(document: dict[str, Any], base: str) -> bytes:
    """Write it so that equal adapters have equal bytes: no path, no random order of sets."""
    ours = {"base_model_name_or_path": base, "revision": None, "auto_mapping": None}
    plain = {key: _ordered(value) for key, value in (document | ours).items()}
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _ordered(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(set(value))
    return value


def _check_numbers(document: dict[str, Any]) -> None:
    _expect(document, "r", _is_rank(document.get("r")), "must be a positive integer")
    alpha, dropout = document.get("lora_alpha", 8), document.get("lora_dropout", 0)
    _expect(document, "lora_alpha", _is_positive(alpha), "must be a positive number")
    good = dropout == 0 or (_is_positive(dropout) and dropout < 1)
    _expect(document, "lora_dropout", good, "must be from 0 to below 1")


def _pattern(
    document: dict[str, Any], field: str, is_good: Callable[[object], bool]
) -> dict[str, Any]:
    pattern = document.get(field, {})
    known = isinstance(pattern, dict) and len(pattern) <= _MAX_MODULES
    good = known and all(map(_is_module, pattern)) and all(map(is_good, pattern.values()))
    _expect(document, field, good, "must map names of modules to positive numbers")
    return dict(pattern)


def _target_modules(document: dict[str, Any]) -> frozenset[str]:
    value = document.get("target_modules")
    good = (
        isinstance(value, list) and 0 < len(value) <= _MAX_MODULES and all(map(_is_module, value))
    )
    _expect(document, "target_modules", good, "must be a list of modules' names")
    return frozenset(value or ())


def _expect(document: dict[str, Any], field: str, good: bool, wish: str) -> None:
    if not good:
        shown = repr(document[field])[:80] if field in document else "absent"
        raise _fault(f"{field[:64]!a} {wish} (it is {shown})")


def _fault(what: str) -> InvalidAdapter:
    return InvalidAdapter(f"{CONFIG_FILE}: {what}")


def _is_module(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 256 and _MODULE.fullmatch(value) is not None


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and _is_positive(value)


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < _LARGEST


def _ends(module: str) -> Iterator[str]:
    # As PEFT matches: a name is the whole path of the module, or its last parts.
    parts = module.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _only(pattern: dict[str, Any], module: str, field: str) -> float | None:
    found = {pattern[end] for end in _ends(module) if end in pattern}
    if len(found) > 1:
        # PEFT takes the first, and the canonical form has no order of its own.
        raise _fault(f"{field} gives {module} more than one value")
    return next(iter(found), None)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0
