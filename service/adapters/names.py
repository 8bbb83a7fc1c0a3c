"""Names of models, made and parsed. Pure.

lorehouse-tiny                                    the base
ft:{base}:{tenant}:{adapter}:{rev}                a job's result
ft:{base}:{tenant}:{adapter}:{rev}:ckpt-step-N    a checkpoint of it
{adapter}                                         its alias `production`, else its newest revision
{adapter}@{rev}                                   one of its revisions
{adapter}@{alias}                                 what an alias points at
"""

import re
from collections.abc import Collection

import msgspec

PATTERN = r"[a-z0-9][a-z0-9.-]{0,63}"
RESERVED = frozenset({"import", "merges"})
SHORTEST_REV = 8
DEFAULT_ALIAS = "production"

_NAME = re.compile(PATTERN)
_REV = re.compile(r"[0-9a-f]{8,64}")
_FULL = re.compile(
    rf"ft:(?P<base>{PATTERN}):(?P<tenant>{PATTERN}):(?P<adapter>{PATTERN}):(?P<rev>{_REV.pattern})"
    r"(:ckpt-step-(?P<step>0|[1-9][0-9]{0,8}))?"
)


class InvalidModelName(ValueError):
    """No model could have this name."""


class FullName(msgspec.Struct, frozen=True):
    """The exact name of a job's result, or with `step` of one of its checkpoints."""

    base: str
    tenant: str
    adapter: str
    rev: str
    step: int | None = None


class AdapterName(msgspec.Struct, frozen=True):
    """An adapter, whichever of its revisions is current."""

    adapter: str


class RevisionName(msgspec.Struct, frozen=True):
    """One revision of an adapter."""

    adapter: str
    rev: str


class AliasName(msgspec.Struct, frozen=True):
    """A movable name within an adapter."""

    adapter: str
    alias: str


ModelRef = FullName | AdapterName | RevisionName | AliasName


def is_name(text: str) -> bool:
    """Tell whether `text` may name a base, tenant, adapter or alias."""
    return _NAME.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    """Tell whether `text` may name an alias: what reads as a revision may not."""
    return is_name(text) and _REV.fullmatch(text) is None


def adapter_name(suffix: str | None, job_id: str) -> str:
    """Name the adapter that a job makes."""
    return job_id.removeprefix("ftjob-") if suffix is None else suffix


def model_name(base: str, tenant: str, adapter: str, rev: str, step: int | None = None) -> str:
    """Make the exact name of a revision. Raises InvalidModelName on parts that are no names."""
    name = f"ft:{base}:{tenant}:{adapter}:{rev}"
    name = name if step is None else f"{name}:ckpt-step-{step}"
    if _FULL.fullmatch(name) is None:
        raise InvalidModelName(name)
    return name


def parse(name: str) -> ModelRef:
    """Read a model's name; eight or more hex digits after `@` are a revision, never an alias.

    The base's id looks like an adapter's: the caller compares with it first. Raises
    InvalidModelName.
    """
    full = _FULL.fullmatch(name)
    if full is not None:
        step = full["step"]
        parts = (full["base"], full["tenant"], full["adapter"], full["rev"])
        return FullName(*parts, step=None if step is None else int(step))
    adapter, at, rest = name.partition("@")
    if not is_name(adapter) or (at and not is_name(rest)):
        raise InvalidModelName(name)
    if not at:
        return AdapterName(adapter)
    return RevisionName(adapter, rest) if _REV.fullmatch(rest) else AliasName(adapter, rest)


def shortest_rev(digest: str, others: Collection[str]) -> str:
    """Cut a digest to its shortest prefix, of 8 or more, that no other digest starts with."""
    for length in range(SHORTEST_REV, len(digest)):
        if not any(other.startswith(digest[:length]) for other in others if other != digest):
            return digest[:length]
    return digest
