"""From a staged PEFT folder to a whole revision folder: shared by all stores."""

from pathlib import Path

from adapters_store import config, files, layout, manifest, tensors
from adapters_store.errors import InvalidAdapter
from adapters_store.layout import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from adapters_store.models import (
    Manifest,
    MergedManifest,
    MergedRef,
    MergeOrigin,
    Origin,
    RevisionRef,
)


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
    weights = files.copy(staged / WEIGHTS_FILE, into / WEIGHTS_FILE)
    with files.regular(into / WEIGHTS_FILE) as file:
        tensors.check(file, shape)
    written = files.write(into / CONFIG_FILE, config.canonical(document, origin.base))
    entries = {CONFIG_FILE: written, WEIGHTS_FILE: weights}
    made = Manifest(
        version=manifest.VERSION,
        ref=RevisionRef(tenant, adapter, manifest.digest(entries)),
        created_at=created_at,
        files=entries,
        origin=origin,
    )
    files.write(into / MANIFEST_FILE, manifest.encode(made))
    files.sync_folder(into)
    return made


def seal(ref: MergedRef, staged: Path, origin: MergeOrigin, created_at: int) -> MergedManifest:
    """Make what is staged a whole merged model where it is, the manifest last; durably.

    Without a copy, for these are the largest files there are. Raises InvalidAdapter if anything
    but plain files lies there, or none, and InvalidName.
    """
    layout.parts(ref)
    layout.name(origin.base)
    names = sorted(path.name for path in staged.iterdir())
    if not names or not all(map(layout.is_file, names)):
        raise InvalidAdapter(f"a merged model cannot have these files: {names}"[:200])
    entries = {name: files.seal(staged / name) for name in names}
    made = MergedManifest(
        version=manifest.VERSION, ref=ref, created_at=created_at, files=entries, origin=origin
    )
    files.write(staged / MANIFEST_FILE, manifest.encode(made))
    files.sync_folder(staged)
    return made
