"""Objects as somebody else sees and changes them, behind the store's back."""

from collections.abc import Callable
from pathlib import Path

import obstore
from obstore.store import from_url

from adapters_store import RevisionRef, layout


def environment(s3_server: str) -> dict[str, str]:
    """Name the variables that lead S3's clients to a server on this machine."""
    return {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
    }


class Objects:
    """All objects of a URL."""

    def __init__(self, url: str) -> None:
        self._store = from_url(url)

    def all(self) -> list[str]:
        """Every object's key, in order."""
        return sorted(meta["path"] for meta in obstore.list(self._store).collect())

    def key(self, ref: RevisionRef, name: str) -> str:
        """Find the one object of that name of a revision, or of a merged model."""
        folder = "/".join(layout.parts(ref)) + "/"
        (key,) = (k for k in self.all() if k.startswith(folder) and k.endswith(f"/{name}"))
        return key

    def read(self, key: str) -> bytes:
        """Read an object."""
        return bytes(obstore.get(self._store, key).bytes())

    def write(self, key: str, content: bytes) -> None:
        """Write an object, over what is there."""
        obstore.put(self._store, key, content)

    def remove(self, key: str) -> None:
        """Remove an object."""
        obstore.delete(self._store, key)

    def change(self, key: str, change: Callable[[Path], None], path: Path) -> None:
        """Do to an object what `change` does to the file at `path`, a free place."""
        path.write_bytes(self.read(key))
        change(path)
        if path.exists():
            self.write(key, path.read_bytes())
            path.unlink()
        else:
            self.remove(key)
