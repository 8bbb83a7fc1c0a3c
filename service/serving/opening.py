"""From a revision's name to files that may be loaded: whole, sound, and made for this base."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    InvalidName,
    Revision,
    RevisionNotFound,
    RevisionRef,
    StoreUnavailable,
)
from service.adapters.parity import differences
from service.base.description import BaseDescription
from service.base.lora_files import LoraFiles, check_lora, read_lora
from service.base.lora_rules import BadLora
from service.errors import AdaptersUnavailable, Conflict, NotFound


def opened(
    ref: RevisionRef,
    store: AdapterStore,
    base: BaseDescription,
    shapes: Mapping[str, tuple[int, int]],
) -> tuple[Revision, LoraFiles]:
    """Verify a revision by its digests and read it; `shapes` are the base's linears' (in, out).

    Blocks. Raises NotFound, AdaptersUnavailable, and Conflict for what cannot be served here.
    """
    revision = found(ref, store, base)
    with _refused():
        return revision, read_lora(revision.path, shapes)


def found(ref: RevisionRef, store: AdapterStore, base: BaseDescription) -> Revision:
    """Verify a revision by its digests. Blocks; raises as `opened` does."""
    with _refused():
        revision = store.open(ref)
        for difference in differences(revision.manifest.origin, base):
            raise Conflict(str(difference), param="model", code="adapter_base_mismatch")
        return revision


def rank_of(revision: Revision, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Check the shapes of what was verified, whose numbers were checked when it was published.

    Raises as `opened` does.
    """
    with _refused():
        return check_lora(revision.path, shapes).rank


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (RevisionNotFound, InvalidName):
        message = "The files of this model are not there any more."
        raise NotFound(message, param="model", code="model_not_found") from None
    except StoreUnavailable:
        raise AdaptersUnavailable from None
    except (InvalidAdapter, BadLora) as fault:
        raise not_loadable(str(fault)) from None


def not_loadable(why: str) -> Conflict:
    """Say of a revision what is wrong with it."""
    message = f"the model cannot be loaded: {why}"
    return Conflict(message, param="model", code="adapter_not_loadable")
