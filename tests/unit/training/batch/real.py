"""The batch trainer on the bundled base. Importing this is cheap; calling it loads torch."""

from typing import Any, Literal

from service.rendering.renderer import Renderer
from tests.unit.training.real import loaded_base


def batch_trainer(quantization: Literal["nf4", "none"], checkpoint_steps: int, **settings: Any):  # type: ignore[no-untyped-def]
    """Make a trainer, which holds the base until that is removed."""
    from service.base.segmented.base import SegmentedBase
    from service.training.batch.trainer import BatchTrainer

    loaded = loaded_base(quantization)
    base = SegmentedBase(loaded.model)
    return BatchTrainer(loaded, base, Renderer(loaded.description), checkpoint_steps, **settings)
