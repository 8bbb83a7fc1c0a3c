"""The real trainer on the bundled base. Importing this is cheap; calling it loads torch."""

from functools import cache
from typing import Literal

from service.base.description import describe
from service.rendering.renderer import Renderer
from service.settings import BUNDLED_BASE
from service.training.trainer import Trainer


def real_trainer(quantization: Literal["nf4", "none"], checkpoint_steps: int) -> Trainer:
    """Make a trainer; the base is loaded once for each quantization."""
    from service.training.sft import SftTrainer

    loaded = loaded_base(quantization)
    return SftTrainer(loaded, Renderer(loaded.description), checkpoint_steps)


@cache
def loaded_base(quantization: Literal["nf4", "none"]):  # type: ignore[no-untyped-def]
    """Load the bundled base."""
    from service.base.loading import load_base

    return load_base(describe(str(BUNDLED_BASE)), quantization, threads=1)
