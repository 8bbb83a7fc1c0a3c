"""How far a CPU may run ahead of its GPU."""

from collections import deque

import torch

FAR, NEAR = 16, 1
"""Points; FAR is about two layers."""


class Pace:
    """Called at points of a pass: waits until the GPU has passed an earlier one.

    Work that comes in between is then at most so many points behind, instead of a whole pass.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._passed: deque[torch.cuda.Event] = deque()

    def __call__(self, near: bool) -> None:
        """Wait until at most NEAR points, or FAR, are in the GPU's queue."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        self._passed.append(event)
        while len(self._passed) > (NEAR if near else FAR):
            self._passed.popleft().synchronize()
