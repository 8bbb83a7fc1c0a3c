"""Revisions as objects of S3, GCS, Azure or a folder, with a cache of verified copies.

{url}/{tenant}/{adapter}/{digest}/manifest.json      written last: without it there is no revision
{url}/{tenant}/{adapter}/{digest}/{token}/{file}     an upload's files; the manifest names the token
{url}/{tenant}/{adapter}/{digest}/{merge}/...        a merged model: both of it, likewise

Objects cannot be renamed together, so the manifest is the commit: it is put only where none is.
Each upload has a token of its own, so that whoever deletes or collects one never meets another.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from adapters_store import layout, manifest
from adapters_store.bucket import Bucket
from adapters_store.cache import RevisionCache
from adapters_store.errors import InvalidAdapter, RevisionNotFound
from adapters_store.layout import CONTENT_FILES, MANIFEST_FILE
from adapters_store.merged import MergedModel, check_sizes
from adapters_store.models import (
    Described,
    Manifest,
    MergedManifest,
    MergedRef,
    MergeOrigin,
    Origin,
    RevisionRef,
)
from adapters_store.preparing import prepare, seal
from adapters_store.store import AdapterStore, Orphan, Revision, not_found

_PROBES = ".probe"


_Upload = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class _Placed(Manifest, frozen=True, kw_only=True):
    """A manifest that tells which upload its content is."""

    upload: _Upload


class _PlacedMerged(MergedManifest, frozen=True, kw_only=True):
    """A merged model's, likewise."""

    upload: _Upload


class ObjectAdapterStore(AdapterStore):
    """Keeps the promises among any number of machines; the cache is one machine's."""

    def __init__(
        self, url: str, cache_dir: Path, cache_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._bucket = Bucket(url)
        self._cache = RevisionCache(cache_dir, cache_bytes, clock)
        self._clock = clock

    def stage(self) -> AbstractContextManager[Path]:
        """Give a private folder to write an adapter into; it goes when the context ends."""
        return self._cache.stage()

    def publish(self, tenant: str, adapter: str, staged: Path, origin: Origin) -> Revision:
        """Check the staged PEFT files and make them a revision, wholly or not at all."""
        with self.stage() as folder:
            made = prepare(tenant, adapter, staged, origin, folder, int(self._clock()))
            if not self._bucket.exists(_manifest_of(made.ref)):
                self._upload(made, folder, _Placed)
        # Read back, for what counts is what others will get; also the answer for equal content.
        return self.open(made.ref)

    def open(self, ref: RevisionRef) -> Revision:
        """Find a revision, verifying every file against the manifest."""
        described = self._read(ref)
        placed = manifest.parse(described, ref, _Placed)
        try:
            return self._cache.open(ref, described, partial(self._download, placed))
        except InvalidAdapter:
            # What is deleted while it is read looks damaged.
            self._read(ref)
            raise

    def list(self, tenant: str, adapter: str | None = None) -> Iterator[RevisionRef]:
        """Walk a tenant's published revisions, in the order of their references."""
        folder = "/".join(map(layout.name, (tenant,) if adapter is None else (tenant, adapter)))
        parsed = (_parse(found.key) for found in self._bucket.walk(folder))
        published = (ref for ref, upload in filter(None, parsed) if upload is None)
        return iter(sorted(ref for ref in published if not isinstance(ref, MergedRef)))

    def delete(self, ref: RevisionRef) -> None:
        """Remove a revision with what it was merged into, or one merged model. Raises
        RevisionNotFound.
        """
        described = self._read(ref)
        try:
            self._bucket.remove(_manifest_of(ref))
        except FileNotFoundError:
            raise not_found(ref) from None
        # Of a damaged manifest the content is collected later.
        with suppress(InvalidAdapter):
            self._remove_upload(ref, _parse_manifest(described, ref).upload)
        if not isinstance(ref, MergedRef):
            self._cache.drop(ref, described)
            for merged in self._merged(_folder_of(ref)):
                with suppress(RevisionNotFound):
                    self.delete(merged)

    def publish_merged(self, ref: MergedRef, staged: Path, origin: MergeOrigin) -> MergedModel:
        """Make the staged files a merged model, wholly or not at all."""
        made = seal(ref, staged, origin, int(self._clock()))
        self._expect(ref.revision)
        if not self._bucket.exists(_manifest_of(ref)):
            self._upload(made, staged, _PlacedMerged)
        try:
            return self.open_merged(ref)
        except RevisionNotFound:
            # The revision was deleted, or its tenant erased, while this was on its way.
            with suppress(RevisionNotFound):
                self.delete(ref)
            raise

    def open_merged(self, ref: MergedRef) -> MergedModel:
        """Find a merged model; its files are verified as they are read."""
        placed = manifest.parse(self._read(ref), ref, _PlacedMerged)
        self._expect(ref.revision)
        return check_sizes(
            MergedModel(placed, partial(self._blocks, placed)),
            lambda name: self._bucket.find(_content_of(ref, placed.upload, name)).bytes,
        )

    def list_merged(self, tenant: str) -> Iterator[MergedRef]:
        """Walk the merged models of a tenant's revisions."""
        revisions = set(self.list(tenant))
        return (ref for ref in self._merged(tenant) if ref.revision in revisions)

    def published_at(self, ref: RevisionRef) -> float:
        """Tell when a revision's files came, in unix seconds. Raises RevisionNotFound."""
        try:
            return self._bucket.find(_manifest_of(ref)).written
        except FileNotFoundError:
            raise not_found(ref) from None

    def size(self, tenant: str) -> int:
        """Add up the bytes that are kept of a tenant."""
        return sum(found.bytes for found in self._bucket.walk(layout.name(tenant)))

    def erase(self, tenant: str) -> None:
        """Remove all that is a tenant's, torn or whole, and this machine's copies."""
        # Manifests first: what is cut in the middle leaves orphans, and no damaged revision.
        for ref in self.list(tenant):
            with suppress(FileNotFoundError):
                self._bucket.remove(_manifest_of(ref))
        self._bucket.remove_folder(layout.name(tenant))
        self._cache.erase(tenant)

    def tenants(self) -> Sequence[str]:
        """Name the tenants that have adapters here."""
        return sorted(filter(layout.is_name, self._bucket.folders()))

    def orphans(self, tenant: str, before: float) -> Iterator[Orphan]:
        """Walk the uploads that no manifest names, and whose last file is older than `before`.

        A merged model without its revision is an orphan as well: of a delete that was cut, or of a
        publish that the delete overtook.
        """
        yield from self._left_behind(tenant, before)
        for ref, uploads in sorted(self._uploads(tenant).items(), key=_by_place):
            # Asked after the listing: what was committed meanwhile is no orphan.
            for upload in sorted(uploads.keys() - self._named(ref, set(uploads))):
                if uploads[upload] < before:
                    remove = partial(self._remove_upload, ref, upload)
                    yield Orphan(f"{_folder_of(ref)}/{upload}", remove)

    def probe(self) -> None:
        """Write something small and remove it. Raises StoreUnavailable."""
        key = f"{_PROBES}/{secrets.token_hex(16)}"
        self._bucket.create(key, b"1")
        self._bucket.remove(key)

    def _left_behind(self, tenant: str, before: float) -> Iterator[Orphan]:
        for found in self._bucket.walk(layout.name(tenant)):
            ref, upload = _parse(found.key) or (None, None)
            if not isinstance(ref, MergedRef) or upload is not None or found.written >= before:
                continue
            if not self._bucket.exists(_manifest_of(ref.revision)):
                yield Orphan(_folder_of(ref), partial(self.delete, ref))

    def _merged(self, folder: str) -> Sequence[MergedRef]:
        """Find the merged models below a folder, with their revisions or without."""
        parsed = filter(None, (_parse(found.key) for found in self._bucket.walk(folder)))
        return sorted(
            ref for ref, upload in parsed if upload is None and isinstance(ref, MergedRef)
        )

    def _expect(self, ref: RevisionRef) -> None:
        if not self._bucket.exists(_manifest_of(ref)):
            raise not_found(ref)

    def _blocks(self, placed: _PlacedMerged, name: str) -> Iterator[bytes]:
        key = _content_of(placed.ref, placed.upload, name)
        try:
            yield from self._bucket.blocks(key, placed.files[name].bytes)
        except FileNotFoundError:
            raise InvalidAdapter(f"{name} is missing") from None

    def _upload(
        self, made: Described, folder: Path, kind: type[_Placed] | type[_PlacedMerged]
    ) -> None:
        upload = secrets.token_hex(16)
        placed = kind(upload=upload, **msgspec.structs.asdict(made))
        # The small files last: an upload's age counts from them, however long the weights took.
        for name in sorted(made.files, key=lambda name: -made.files[name].bytes):
            self._bucket.upload(_content_of(made.ref, upload, name), folder / name)
        if self._bucket.create(_manifest_of(made.ref), manifest.encode(placed)):
            return
        # Ours all the same, when the first answer was lost and the request was sent again.
        if upload not in self._named(made.ref, {upload}):
            self._remove_upload(made.ref, upload)

    def _download(self, placed: _Placed, folder: Path) -> None:
        for name, expected in placed.files.items():
            key = _content_of(placed.ref, placed.upload, name)
            try:
                size = self._bucket.find(key).bytes
                if size != expected.bytes:
                    fault = f"{name} has {size} bytes, published were {expected.bytes}"
                    raise InvalidAdapter(fault)
                self._bucket.download(key, folder / name, size)
            except FileNotFoundError:
                raise InvalidAdapter(f"{name} is missing") from None

    def _read(self, ref: RevisionRef) -> bytes:
        try:
            return self._bucket.read(_manifest_of(ref), manifest.MAX_BYTES)
        except FileNotFoundError:
            raise not_found(ref) from None

    def _named(self, ref: RevisionRef, uploads: set[str]) -> set[str]:
        """Find which uploads the manifest may name: one, none without it, all if it is damaged."""
        try:
            return {_parse_manifest(self._read(ref), ref).upload}
        except RevisionNotFound:
            return set()
        except InvalidAdapter:
            return uploads

    def _uploads(self, tenant: str) -> dict[RevisionRef, dict[str, float]]:
        """Find when each upload was last written to."""
        uploads: dict[RevisionRef, dict[str, float]] = {}
        for found in self._bucket.walk(layout.name(tenant)):
            ref, upload = _parse(found.key) or (None, None)
            if ref is not None and upload is not None:
                of_ref = uploads.setdefault(ref, {})
                of_ref[upload] = max(found.written, of_ref.get(upload, 0))
        return uploads

    def _remove_upload(self, ref: RevisionRef, upload: str) -> None:
        for found in self._bucket.walk(f"{_folder_of(ref)}/{upload}"):
            if _parse(found.key) == (ref, upload):
                with suppress(FileNotFoundError):
                    self._bucket.remove(found.key)


def _folder_of(ref: RevisionRef) -> str:
    return "/".join(layout.parts(ref))


def _manifest_of(ref: RevisionRef) -> str:
    return f"{_folder_of(ref)}/{MANIFEST_FILE}"


def _content_of(ref: RevisionRef, upload: str, name: str) -> str:
    return f"{_folder_of(ref)}/{upload}/{name}"


def _parse(key: str) -> tuple[RevisionRef, str | None] | None:
    """Tell whose an object is, and of which upload (None: the manifest); None if not ours."""
    match key.split("/"):
        case [tenant, adapter, digest, *rest] if (
            layout.is_name(tenant) and layout.is_name(adapter) and layout.is_digest(digest)
        ):
            return _parse_inner(RevisionRef(tenant, adapter, digest), rest)
    return None


def _parse_inner(ref: RevisionRef, rest: list[str]) -> tuple[RevisionRef, str | None] | None:
    if rest and layout.is_merge(rest[0]):
        ref, rest = MergedRef(ref.tenant, ref.adapter, ref.digest, rest[0]), rest[1:]
    ours = layout.is_file if isinstance(ref, MergedRef) else CONTENT_FILES.__contains__
    match rest:
        case [name] if name == MANIFEST_FILE:
            return ref, None
        case [upload, name] if ours(name):
            return ref, upload
    return None


def _parse_manifest(content: bytes, ref: RevisionRef) -> _Placed | _PlacedMerged:
    if isinstance(ref, MergedRef):
        return manifest.parse(content, ref, _PlacedMerged)
    return manifest.parse(content, ref, _Placed)


def _by_place(item: tuple[RevisionRef, object]) -> tuple[str, ...]:
    return layout.parts(item[0])
