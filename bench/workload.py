"""What all sides of a training bench are given."""

from collections.abc import Sequence

import torch
from torch import Tensor

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 16, 32
LEARNING_RATE, CLIP = 1e-4, 1.0


class SidesDiffer(Exception):
    """Both sides' first losses are those of the bare base, and have to agree."""


def examples(model: torch.nn.Module, lengths: Sequence[int], seed: int) -> list[Tensor]:
    """Draw random tokens on the model's device, which no training makes shorter or longer."""
    random = torch.Generator().manual_seed(seed)
    vocabulary = model.config.vocab_size
    drawn = [torch.randint(5, vocabulary, (length,), generator=random) for length in lengths]
    return [one.to(model.device) for one in drawn]


def check_losses(ours: float, peer: float, tolerance: float = 0.01) -> None:
    """Raise SidesDiffer unless the losses are within the relative tolerance."""
    if abs(ours - peer) > tolerance * ours:
        raise SidesDiffer(f"the sides do not train on the same loss: {ours:.4f} and {peer:.4f}")
