"""How much a tenant may have (quotas) and how fast it may ask (rate limits). Pure."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.database.models import Json
from service.settings import PREFIX, SettingsError
from service.wire import Input

MOST = 10**15
"""Far from where a database's integers end, whatever is added to it."""

Quota = Annotated[int, Meta(ge=0, le=MOST)]
Rate = Annotated[int, Meta(ge=1, le=MOST)]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one tenant; None is no limit."""

    stored_bytes: Quota | None = None
    """Files, uploads under way, revisions and merged models."""
    files: Quota | None = None
    queued_jobs: Quota | None = None
    """That wait, or are paused."""
    running_jobs: Quota | None = None
    """At once; the others wait."""
    trained_tokens_per_month: Quota | None = None
    adapters: Quota | None = None
    resident_adapters: Quota | None = None
    """Revisions with a place on the base at once, pinned or used; beside pins, one at least."""
    generated_tokens_per_day: Quota | None = None
    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    """Of prompts and answers together."""
    concurrent_generations: Rate | None = None


class OwnLimits(Input):
    """The limits that are set: null is none, and what is absent is as if nothing was said."""

    stored_bytes: Quota | UnsetType | None = UNSET
    files: Quota | UnsetType | None = UNSET
    queued_jobs: Quota | UnsetType | None = UNSET
    running_jobs: Quota | UnsetType | None = UNSET
    trained_tokens_per_month: Quota | UnsetType | None = UNSET
    adapters: Quota | UnsetType | None = UNSET
    resident_adapters: Quota | UnsetType | None = UNSET
    generated_tokens_per_day: Quota | UnsetType | None = UNSET
    requests_per_minute: Rate | UnsetType | None = UNSET
    tokens_per_minute: Rate | UnsetType | None = UNSET
    concurrent_generations: Rate | UnsetType | None = UNSET


NONE = Limits()


def resolve(defaults: Limits, own: Json | None) -> Limits:
    """Put a tenant's own limits, as its row has them, over the server's."""
    if not own:
        return defaults
    return msgspec.convert(msgspec.structs.asdict(defaults) | own, Limits)


def from_setting(text: str) -> Limits:
    """Read the server's defaults, a JSON object or nothing. Raises SettingsError."""
    if not text:
        return NONE
    try:
        return resolve(NONE, msgspec.to_builtins(msgspec.json.decode(text, type=OwnLimits)))
    except msgspec.DecodeError as fault:
        raise SettingsError(f"{PREFIX}TENANT_LIMITS: {fault}") from None
