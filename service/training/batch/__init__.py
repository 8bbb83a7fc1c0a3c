"""Many tasks in one batch: continuous batching, for training.

    trainer = BatchTrainer(loaded, SegmentedBase(loaded.model), renderer, checkpoint_steps=50)
    one = trainer.add(task, report, should_stop, tenant="acme")      # a Future[TrainingOutcome]
    other = trainer.add(another, report, should_stop, tenant="globex")
    while trainer.step():                                            # others may be added between
        ...

At every step each task contributes its next examples to one row of tokens (`packing`), which goes
through the resident base and back once (`row`). Whoever has then seen all examples of its optimizer
step takes it (`trainer`). A task has its own order (`order`), dropout seeds for each example, loss
normalisation, schedule (`schedule`), moments, clipping, and thread for reports and checkpoints
(`keeper`): what comes of it does not depend on who else is there, up to the rounding of sums.
"""
