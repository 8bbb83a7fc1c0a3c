"""Imports on the wire: a form with an archive, or with PEFT's two files."""

from typing import Annotated, Literal

from msgspec import Meta

from service.adapters.adapters_schemas import AdapterRevision
from service.adapters.aliases_schemas import Reason
from service.wire import Input

ARCHIVE, CONFIG, WEIGHTS = "file", "adapter_config", "adapter_model"
FORMATS = ("chat", "raw")


class ImportAdapter(Input):
    """The form's fields."""

    adapter: str
    format: Literal["chat", "raw"] | None = None
    alias: str | None = None
    reason: Reason | None = None


class ImportedRevision(AdapterRevision):
    """A revision that was brought from elsewhere."""

    model: Annotated[str, Meta(description="Its exact name, to call it.")]
