"""A tenant's window on the adapter store: adapters, revisions, fine-tuned models."""
