"""A thread for a generation loop that shares its model with nobody. No torch."""

import threading

from service.serving.generation_loop import GenerationLoop


class OwnThread:
    """Takes turns until the loop is closed. Starts at once."""

    def __init__(self, loop: GenerationLoop) -> None:
        self._loop = loop
        self._called = threading.Event()
        loop.door.wake = self._called.set
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._loop.ended:
                self._called.clear()
                if not self._loop.turn():
                    self._called.wait()
        finally:
            self._loop.end()
