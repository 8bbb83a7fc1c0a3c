"""The promise: fine-tuning jobs, their events and checkpoints."""
