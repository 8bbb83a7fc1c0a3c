"""The bundled base. Importing this is cheap; calling it loads torch."""

from functools import cache
from typing import Literal

from service.base.description import describe
from service.settings import BUNDLED_BASE


@cache
def loaded_base(quantization: Literal["nf4", "none"]):  # type: ignore[no-untyped-def]
    """Load the bundled base."""
    from service.base.loading import load_base

    return load_base(describe(str(BUNDLED_BASE)), quantization, threads=1)
