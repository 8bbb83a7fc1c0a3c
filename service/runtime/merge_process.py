"""The process that merges one revision: its memory is its own, and goes with it.

It knows no rows. It publishes the merged model under the name that it is told, and says so.
"""

import errno
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from adapters_store import (
    AdapterStore,
    InvalidAdapter,
    MergedManifest,
    MergeOrigin,
    Revision,
    RevisionNotFound,
    RevisionRef,
)
from service.adapters.merges_schemas import MergeFault
from service.adapters.storing import adapter_store
from service.base.description import BaseDescription, BaseModelError, describe
from service.base.merging import Agreement, MergeError, Method, Prompts, compare, merge
from service.rendering.renderer import Renderer
from service.runtime.merge_messages import MergeOrder, MergeOutcome
from service.runtime.merge_probes import probes
from service.settings import Settings
from service.telemetry import logger

NICENESS = 10
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")

_log = logger(__name__)


Comparer = Callable[[BaseDescription, Path, Path, Method, Prompts], Agreement]
"""Of base, adapter, merged model, how it was merged, and prompts."""


def step_back() -> None:
    """Leave the processor to the base's thread, which computes answers."""
    os.nice(NICENESS)
    torch.set_num_threads(1)


def run(settings: Settings, order: MergeOrder, comparer: Comparer = compare) -> MergeOutcome:
    """Merge, compare and publish; what is nobody's fault but the moment's is raised."""
    try:
        base = describe(settings.base_model, settings.base_name)
        work = _Work(base, adapter_store(settings), order, comparer)
        return work.go(settings.merge_shard_bytes)
    except (MergeError, BaseModelError, InvalidAdapter, RevisionNotFound) as fault:
        return MergeOutcome(error=MergeFault(code=_code(fault), message=str(fault)))
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = "The server has no space left to merge this."
        return MergeOutcome(error=MergeFault(code="insufficient_storage", message=message))


class _Work:
    def __init__(
        self, base: BaseDescription, store: AdapterStore, order: MergeOrder, comparer: Comparer
    ) -> None:
        self._base = base
        self._store = store
        self._order = order
        self._compare = comparer

    def go(self, shard_bytes: int) -> MergeOutcome:
        revision, method = self._revision(), self._order.base_weights
        with self._store.stage() as folder:
            merge(self._base, revision.path, folder, method, shard_bytes)
            _log.info("merge.written", merge=self._order.ref.merge)
            agreement = self._agreement(revision, folder)
            published = self._store.publish_merged(self._order.ref, folder, self._origin())
        return MergeOutcome(result=_result(published.manifest, agreement))

    def _revision(self) -> Revision:
        ref = self._order.ref.revision
        revision = self._store.open(RevisionRef(ref.tenant, ref.adapter, ref.digest))
        if revision.manifest.origin.base_digest != self._base.digest:
            message = "The revision was made for another base than the one that runs here."
            raise MergeError(message, "adapter_base_mismatch")
        return revision

    def _agreement(self, revision: Revision, folder: Path) -> Agreement:
        prompts = probes(Renderer(self._base))
        method = self._order.base_weights
        agreement = self._compare(self._base, revision.path, folder, method, prompts)
        _log.info("merge.compared", **msgspec.structs.asdict(agreement))
        if not agreement.agrees:
            raise MergeError(
                "The merged model disagrees with the base and the adapter: a token's "
                f"log-probability differs by {agreement.difference:.3g} nats, where "
                f"{agreement.tolerance:.3g} are allowed",
                "merge_disagrees",
            )
        return agreement

    def _origin(self) -> MergeOrigin:
        return MergeOrigin(
            base=self._base.name,
            base_digest=self._base.digest,
            method=self._order.base_weights,
            library_versions={name: version(name) for name in LIBRARIES},
        )


def _result(manifest: MergedManifest, agreement: Agreement) -> dict[str, object]:
    files = [
        {"name": name, "bytes": entry.bytes, "sha256": entry.sha256}
        for name, entry in sorted(manifest.files.items())
    ]
    return {
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "files": files,
        "agreement": msgspec.structs.asdict(agreement),
    }


def _code(fault: Exception) -> str:
    match fault:
        case MergeError():
            return fault.code
        case RevisionNotFound():
            return "revision_not_found"
        case InvalidAdapter():
            return "invalid_adapter"
    return "base_not_loadable"
