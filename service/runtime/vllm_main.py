"""The main module of a runtime that answers with vLLM: the processes that vLLM makes import it too.

So each ties itself to this one before it does anything else, and none outlives it with the card's
memory in its hands. (The main module of a package is not imported by children.)
"""

import os
import sys

from service.runtime.parent import die_with_parent

_NAME = "service.runtime.vllm_main"


def become(arguments: list[str]) -> None:
    """Run these arguments of ours with this as the main module, in this process.

    Does nothing where it is so already. What was asked of the kernel before still holds.
    """
    spec = sys.modules["__main__"].__spec__
    if spec is None or spec.name != _NAME:
        os.execv(sys.executable, [sys.executable, "-m", _NAME, *arguments])  # noqa: S606


if __name__ == "__mp_main__":
    die_with_parent()
elif __name__ == "__main__":
    from service.__main__ import main

    sys.exit(main(sys.argv[1:]))
