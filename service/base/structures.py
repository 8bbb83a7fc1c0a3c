"""What the rows' structures leave of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.base.penalties import to_device
from service.base.rows import Row

_BYTE = 8


def kept(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Make the logits [rows, vocabulary] minus infinity where a row's structure has no place.

    The given ones are left alone.
    """
    masks = {at: row.structure.mask() for at, row in enumerate(rows) if row.structure is not None}
    if not masks:
        return logits
    host = torch.frombuffer(bytearray().join(masks.values()), dtype=torch.uint8)
    places = to_device(torch.tensor(list(masks)), logits.device)
    allowed = _bits(to_device(host.view(len(masks), -1), logits.device))[:, : logits.shape[-1]]
    return logits.index_copy(0, places, logits[places].masked_fill(~allowed, -torch.inf))


def _bits(packed: Tensor) -> Tensor:
    """Unpack bytes [rows, bytes] into [rows, 8 * bytes], the lowest bit first."""
    places = torch.arange(_BYTE, dtype=packed.dtype, device=packed.device)
    return (packed.unsqueeze(-1) >> places & 1).bool().flatten(1)
