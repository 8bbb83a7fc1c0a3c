"""A LoRA adapter merged into its base: a model folder of 16-bit weights, and whether it agrees."""

from service.base.merging.agreement import Agreement, Prompts, compare
from service.base.merging.merge import MergeError, Method, merge

__all__ = ["Agreement", "MergeError", "Method", "Prompts", "compare", "merge"]
