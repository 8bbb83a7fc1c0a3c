"""The main module of a runtime that answers with vLLM: the processes that vLLM makes import it too.

So each ties itself to this one before it does anything else, and none outlives it with the card's
memory in its hands. (The main module of a package is not imported by children.)
"""

import sys

from service.runtime.parent import die_with_parent

if __name__ == "__mp_main__":
    die_with_parent()
elif __name__ == "__main__":
    from service.__main__ import main

    sys.exit(main())
