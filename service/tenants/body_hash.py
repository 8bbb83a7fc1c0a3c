"""The digest of a request: equal for equal requests, though each form has a boundary of its own."""

import hashlib

from multipart import parse_options_header


class BodyHash:
    """Takes a body in any pieces; a form's boundary does not count."""

    def __init__(self, about: bytes, content_type: str | None) -> None:
        self._hash = hashlib.sha256(about + b"\0")
        _, options = parse_options_header(content_type or "")
        self._boundary: bytes = options.get("boundary", "").encode()
        self._tail = b""

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        if not self._boundary:
            self._hash.update(piece)
            return
        *parts, self._tail = (self._tail + piece).split(self._boundary)
        for part in parts:
            self._hash.update(part)
        # What may be the beginning of a boundary waits for the rest.
        kept = len(self._boundary) - 1
        if len(self._tail) > kept:
            cut = len(self._tail) - kept
            self._hash.update(self._tail[:cut])
            self._tail = self._tail[cut:]

    def digest(self) -> str:
        """Give the digest of all that came, in hex."""
        whole = self._hash.copy()
        whole.update(self._tail)
        return whole.hexdigest()
