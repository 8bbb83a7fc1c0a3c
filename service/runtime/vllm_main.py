"""The main module of a runtime that answers with vLLM: the processes that vLLM makes import it too.

So each ties itself to this one before it does anything else, and none outlives it with the card's
memory in its hands. (The main module of a package is not imported by children.)
"""

import os
import sys

from service.runtime.parent import SUPERVISOR_PID, die_with_parent


def become(arguments: list[str]) -> None:
    """Be this program, in this process; what was asked of the kernel before still holds."""
    os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *arguments])  # noqa: S606


def _main() -> None:
    from service.__main__ import main

    os.environ[SUPERVISOR_PID] = str(os.getpid())
    sys.exit(main(sys.argv[1:]))


if __name__ == "__mp_main__":
    die_with_parent()
elif __name__ == "__main__":
    _main()
