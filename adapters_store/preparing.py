"""From a staged PEFT folder to a whole revision folder: shared by all stores."""

from pathlib import Path

from adapters_store import config, files, layout, manifest, tensors
from adapters_store.layout import CONFIG_FILE, CONTENT_FILES, MANIFEST_FILE, WEIGHTS_FILE
from adapters_store.models import Manifest, Origin, RevisionRef


def prepare(
    tenant: str, adapter: str, staged: Path, origin: Origin, into: Path, created_at: int
) -> Manifest:
    """Fill the empty folder `into` with checked copies and, last, the manifest; durably.

    The copies are checked, not the originals: what was seen to be good is what is kept, whatever
    happens to `staged` meanwhile. Other files in `staged` are left out. Raises InvalidAdapter and
    InvalidName.
    """
    for part in (tenant, adapter, origin.base):
        layout.name(part)
    with files.regular(staged / CONFIG_FILE) as file:
        document = config.parse(file.read(config.MAX_BYTES + 1))
    shape = config.check(document)
    files.copy(staged / WEIGHTS_FILE, into / WEIGHTS_FILE)
    with files.regular(into / WEIGHTS_FILE) as file:
        tensors.check(file, shape)
    files.write(into / CONFIG_FILE, config.canonical(document, origin.base))
    made = _describe(tenant, adapter, origin, into, created_at)
    files.write(into / MANIFEST_FILE, manifest.encode(made))
    files.sync_folder(into)
    return made


def _describe(tenant: str, adapter: str, origin: Origin, into: Path, created_at: int) -> Manifest:
    entries = {name: files.entry(into / name) for name in CONTENT_FILES}
    return Manifest(
        version=manifest.VERSION,
        ref=RevisionRef(tenant, adapter, manifest.digest(entries)),
        created_at=created_at,
        files=entries,
        origin=origin,
    )
