"""What the rows' structures leave of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.base.penalties import to_device
from service.base.rows import Row

_WORD = 32


def kept(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Make the logits [rows, vocabulary] minus infinity where a row's structure has no place.

    The given ones are left alone.
    """
    masks = {at: row.structure.mask() for at, row in enumerate(rows) if row.structure is not None}
    if not masks:
        return logits
    words = torch.frombuffer(bytearray().join(masks.values()), dtype=torch.int32)
    places = to_device(torch.tensor(list(masks)), logits.device)
    allowed = _bits(to_device(words.view(len(masks), -1), logits.device))[:, : logits.shape[-1]]
    return logits.index_copy(0, places, logits[places].masked_fill(~allowed, -torch.inf))


def _bits(words: Tensor) -> Tensor:
    """Unpack 32-bit words [rows, words] into [rows, 32 * words], the lowest bit first."""
    places = torch.arange(_WORD, dtype=words.dtype, device=words.device)
    return (words.unsqueeze(-1) >> places & 1).bool().flatten(1)
