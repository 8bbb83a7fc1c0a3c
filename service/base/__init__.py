"""The base model: what it is, and how it is loaded."""
