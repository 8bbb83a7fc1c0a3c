"""What a request makes, told inside the transaction that makes it.

Whoever keeps a record of requests (the audit, `Idempotency-Key`) writes it in that transaction.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec

from service.errors import Conflict
from service.http.errors import body, detail_of

T = TypeVar("T", bound=msgspec.Struct)


class Deed(msgspec.Struct):
    """What is known so far of what one request made."""

    created: str | None = None
    """Its id."""
    answer: Any = None
    """What the request, and later ones of the same `Idempotency-Key`, are answered with."""
    status: int | None = None
    """None: the handler's own."""

    def forget(self) -> None:
        """Nothing of it is there: its transaction was rolled back."""
        self.created = self.answer = self.status = None


_deed: ContextVar[Deed | None] = ContextVar("deed", default=None)


@contextmanager
def noted() -> Iterator[Deed]:
    """Note what is made inside; whoever else notes it meanwhile has the same."""
    token = _deed.set(deed := _deed.get() or Deed())
    try:
        yield deed
    finally:
        _deed.reset(token)


def made(answer: T, status: int | None = None) -> T:
    """Tell what was made, as it is answered; its `id` names it. Use inside `Database.write()`."""
    if (deed := _deed.get()) is not None:
        deed.created = getattr(answer, "id", None)
        deed.answer, deed.status = msgspec.to_builtins(answer), status
    return answer


def made_secret(created: str) -> None:
    """Tell what was made, and is answered with a secret that is kept nowhere.

    Later requests of the same `Idempotency-Key` are told that it was made, and no more.
    """
    if (deed := _deed.get()) is not None:
        fault = Conflict(
            f"The first request with this Idempotency-Key made {created}, and its secret is shown "
            "once: if it was lost, remove what was made, and make another under another key.",
            param="idempotency-key",
            code="secret_shown_once",
        )
        deed.created, deed.answer, deed.status = created, body(detail_of(fault)), fault.status
