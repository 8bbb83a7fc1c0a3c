"""`lorehouse merge`, killed on the way: `python -m tests.e2e.mortal_merge ATTEMPTS STEP...`.

The n-th process that is started dies by `kill -9` when it is about to take the n-th step, a name
of `merge_process` or `obstore`; one beyond the last step lives. ATTEMPTS is a file that counts.
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from service.__main__ import main
from service.runtime import merge_process


def die(*_: object, **__: object) -> NoReturn:
    """End as by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    attempts, steps = Path(sys.argv[1]), sys.argv[2:]
    made = len(attempts.read_bytes()) if attempts.exists() else 0
    attempts.write_bytes(b"." * (made + 1))
    if made < len(steps):
        setattr(merge_process, steps[made], die)
    sys.exit(main(["merge"]))
