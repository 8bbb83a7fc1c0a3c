"""Lorehouse: one base model, many tenants, their fine-tuned adapters."""

__version__ = "0.1.0"
