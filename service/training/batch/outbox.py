"""What a task tells and keeps while training goes on: in order, in a thread of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Outbox:
    """Does one thing after the other. After a fault, nothing that comes later is done."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"outbox-{name}")
        self.fault: BaseException | None = None

    def put(self, work: Callable[[], None]) -> "Future[None]":
        """Have something done; the future is done when it was, or was left out."""
        return self._thread.submit(self._do, work)

    def end(self, result: "Future[T]", make: Callable[[], T]) -> None:
        """Have `result` set, at last, to what `make` gives, or to the fault that there was."""
        self._thread.submit(self._finish, result, make)
        self._thread.shutdown(wait=False)

    def _do(self, work: Callable[[], None]) -> None:
        if self.fault is None:
            try:
                work()
            except BaseException as fault:  # noqa: BLE001  it is raised to who waits for the end
                self.fault = fault

    def _finish(self, result: "Future[T]", make: Callable[[], T]) -> None:
        made: list[T] = []
        self._do(lambda: made.append(make()))
        if self.fault is None:
            result.set_result(made[0])
        else:
            result.set_exception(self.fault)
