"""The resident base with slots: the one object that training and generation hold."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from service.base.lora_files import linear_shapes
from service.base.segmented.attention import Attend, Packed
from service.base.segmented.batch import Batch, Context, Pass, go_on
from service.base.segmented.dropout import Dropout
from service.base.segmented.inject import Injected, UnfitBase, target_linears
from service.base.segmented.layout import Layout, Part, lay_out, positions
from service.base.segmented.loss import TokenLosses, token_losses
from service.base.segmented.pool import Pool
from service.base.segmented.slots import Held, Slots


class SegmentedBase:
    """Owns the model until `remove`. Not thread-safe: one thread does everything."""

    def __init__(
        self,
        model: Any,
        *,
        targets: Sequence[str] | None = None,
        cache_weights: bool = False,
        recompute: bool = False,
    ) -> None:
        """Put the segmented layers in.

        `targets` are the names that adapters may target, by default every linear layer but the
        head. `cache_weights` holds 4-bit weights dequantised as well: faster, and the same numbers.
        `recompute` keeps little between the way there and back, and takes a third longer; see
        `recompute` for single rows.
        Raises UnfitBase.
        """
        linears = target_linears(model, targets)
        _check_head(model)
        self.model = model
        self.shapes = linear_shapes(model)
        self._targets = {name: self.shapes[name] for name in linears}
        self._context = Context()
        self._injected = Injected(
            model, linears, self._context, cache=cache_weights, recompute=recompute
        )

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.dtype

    def slots(self, *, capacity: int, rank: int, dtype: torch.dtype = torch.float32) -> Slots:
        """Make `capacity` slots of at most `rank`; any number of such sets can be in use.

        `dtype` is that of the adapters; they are computed with in the activations'.
        """
        pool = Pool(self._targets, capacity=capacity, rank=rank, device=self.device, dtype=dtype)
        return Slots(pool)

    def batch(
        self,
        slots: Slots,
        parts: Iterable[Part],
        *,
        places: Sequence[int] | None = None,
        attend: Attend | None = None,
        pause: Callable[[], None] = go_on,
    ) -> Batch:
        """Lay parts out on the device; their slots are those of `slots`.

        Each length is a whole example's, unless `places` tells each token's place in its own, and
        `attend` what it sees. Raises ValueError; KeyError for a slot that is free.
        """
        layout = lay_out(parts)
        held = [slots[slot] for slot in layout.slots]
        places = positions(layout.lengths) if places is None else places
        return Batch(
            layout,
            slots.pool,
            scalings=[one.scaling for one in held],
            layers=frozenset(name for one in held for name in one.layers),
            positions=torch.tensor([places], device=self.device),
            attend=Packed(layout.lengths, self.device) if attend is None else attend,
            dropout=_dropout(layout, held, slots.pool),
            pause=pause,
        )

    def recompute(self, wanted: bool) -> None:
        """Keep little in the passes that begin from now on, or all that the way back needs.

        Raises UnfitBase.
        """
        self._injected.recompute(wanted)

    def running(self, batch: Pass) -> AbstractContextManager[None]:
        """Set the batch that the layers see, for the forward and the backward pass."""
        return self._context.running(batch)

    def hidden(self, batch: Pass, input_ids: Tensor) -> Tensor:
        """Give the last hidden states, `[T, width]`, of the row `[T]`."""
        out = self.model.base_model(
            input_ids=input_ids.unsqueeze(0),
            position_ids=batch.positions,
            use_cache=False,
            packing=batch,
        )
        return out.last_hidden_state[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states on the vocabulary, all at once: for few rows."""
        head = self.model.get_output_embeddings()
        return functional.linear(hidden, head.weight, head.bias)

    def loss(self, hidden: Tensor, rows: Tensor, targets: Tensor, weights: Tensor) -> TokenLosses:
        """Give the losses of `rows` of the hidden states against `targets`, each weighted.

        Within `running`: the batch pauses here as well.
        """
        head = self.model.get_output_embeddings()
        return token_losses(
            hidden.index_select(0, rows),
            head.weight,
            targets,
            weights,
            bias=head.bias,
            pause=self._context.batch.pause,
        )

    def logprobs(self, hidden: Tensor, rows: Sequence[int], targets: Sequence[int]) -> list[float]:
        """Give the log-probabilities of `targets`, one after each of `rows` of the hidden states.

        Within `running`, and without a gradient.
        """
        if not rows:
            return []
        places, tokens = (torch.tensor(each, device=self.device) for each in (rows, targets))
        weights = torch.zeros(len(rows), device=self.device)
        nll: list[float] = self.loss(hidden, places, tokens, weights).nll.tolist()
        return [-one for one in nll]

    def computes(self) -> bool:
        """Tell whether the device still does, after a fault: some leave it unusable."""
        try:
            return float(torch.ones(2, device=self.device).sum()) == 2.0
        except RuntimeError:
            return False

    def remove(self) -> None:
        """Give the model back as it was."""
        self._injected.remove()


def _dropout(layout: Layout, held: Sequence[Held], pool: Pool) -> Dropout | None:
    parts = layout.adapted
    rates = [
        0.0 if part.dropout_seed is None else one.dropout
        for part, one in zip(parts, held, strict=True)
    ]
    if not any(rates):
        return None
    return Dropout(parts, rates, len(pool.shapes), pool.device, pool.dtype)


def _check_head(model: Any) -> None:
    """Some models scale or cap their logits; those would be trained on another loss."""
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    projected = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *seen: projected.append(seen))
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    if type(head) is not torch.nn.Linear or len(projected) != 1:
        raise UnfitBase("its head is not one plain linear layer")
    _, (given,), out = projected[0]
    if not torch.equal(out, logits) or not torch.allclose(given, hidden, rtol=1e-2, atol=1e-2):
        raise UnfitBase("its logits are not a plain projection of its last hidden states")
