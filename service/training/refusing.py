"""A method that is not trained here."""

from collections.abc import Callable

from service.training.trainer import TrainingError, TrainingEvent, TrainingOutcome, TrainingTask


class RefusingTrainer:
    """Implements `Trainer`: ends every task at once, with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def train(
        self,
        task: TrainingTask,  # noqa: ARG002 - the same for each
        report: Callable[[TrainingEvent], None],  # noqa: ARG002
        should_stop: Callable[[], bool],  # noqa: ARG002
    ) -> TrainingOutcome:
        """Raise TrainingError."""
        raise TrainingError(self._reason, "out_of_memory", "method.type")
