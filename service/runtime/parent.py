"""A child's tie to the supervisor that started it: when that one dies, so does the child."""

import ctypes
import os
import signal

SUPERVISOR_PID = "RUNTIME_SUPERVISOR_PID"
"""The environment variable by which a supervisor tells its children who it is."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its supervisor dies, even by `kill -9`.

    Call it first thing in a runtime's main. Without a supervisor, as when started by hand, the
    process outlives its shell. Raises SystemExit if the supervisor is dead already.
    """
    # Popped: a child of this process has another parent.
    supervisor = os.environ.pop(SUPERVISOR_PID, None)
    if supervisor is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        fault = ctypes.get_errno()
        raise OSError(fault, f"prctl: {os.strerror(fault)}")
    # The supervisor may have died before the kernel knew of our wish.
    if os.getppid() != int(supervisor):
        raise SystemExit("the supervisor died while this runtime started")
