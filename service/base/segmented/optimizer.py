"""AdamW for many adapters: each slot has its own settings, moments and count of steps."""

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from service.base.segmented.products import has_triton
from service.base.segmented.slots import BadShape, Slots


class AdamW(msgspec.Struct, frozen=True, kw_only=True):
    """One slot's step. Defaults are torch's."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float | None = None
    """The greatest norm of the gradient, over all of the adapter's weights."""


class SlotState(msgspec.Struct, frozen=True):
    """What AdamW remembers of a slot: by PEFT's keys, in PEFT's shapes."""

    steps: int
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]


class SlotAdamW:
    """Steps the slots that it is told to; the others stay bit-equal.

    A slot's numbers are one row of the pool, so a step is one fused kernel over that row, and on a
    GPU one over all of them. Padding has no gradient and no weight, and so gets none.
    """

    def __init__(self, slots: Slots) -> None:
        self._pool = slots.pool
        self._slots = slots

    def step(self, settings: Mapping[int, AdamW]) -> dict[int, Tensor]:
        """Step, and set the gradients to zero. Gives each gradient's norm before it was clipped."""
        if self._pool.device.type == "cuda" and self._pool.dtype is torch.float32 and has_triton():
            return self._step_at_once(settings)
        return self._step_each(settings)

    def state(self, slot: int) -> SlotState:
        """View a slot's moments, for a checkpoint."""
        return SlotState(
            steps=int(self._pool.steps[slot]),
            exp_avg=self._slots.views(self._pool.buffer("exp_avg"), slot),
            exp_avg_sq=self._slots.views(self._pool.buffer("exp_avg_sq"), slot),
        )

    def restore(self, slot: int, state: SlotState) -> None:
        """Put a slot's moments back. Raises BadShape unless all are given."""
        held = self.state(slot)
        pairs = ((held.exp_avg, state.exp_avg), (held.exp_avg_sq, state.exp_avg_sq))
        for views, given in pairs:
            shapes = {key: tensor.shape for key, tensor in given.items()}
            if shapes != {key: view.shape for key, view in views.items()}:
                raise BadShape("these are not the slot's moments")
        for views, given in pairs:
            for key, view in views.items():
                view.copy_(given[key])
        self._pool.steps[slot] = state.steps

    def _step_each(self, settings: Mapping[int, AdamW]) -> dict[int, Tensor]:
        norms = {}
        for slot, wanted in settings.items():
            gradient = self._pool.gradients[slot]
            norms[slot] = torch.linalg.vector_norm(gradient)
            if wanted.clip is not None:
                # As torch's clip_grad_norm_ has it.
                gradient *= (wanted.clip / (norms[slot] + 1e-6)).clamp(max=1.0)
            self._update(slot, gradient, wanted)
            gradient.zero_()
        return norms

    def _step_at_once(self, settings: Mapping[int, AdamW]) -> dict[int, Tensor]:
        from service.base.segmented.kernels.adamw import step_rows

        if not settings:
            return {}
        pool = self._pool
        norms = torch._foreach_norm([pool.gradients[slot] for slot in settings])
        slots = torch.tensor(list(settings), device=pool.device)
        steps = pool.steps[slots] + 1
        pool.steps[slots] = steps
        terms = _terms(settings, steps, torch.stack(norms))
        moments = pool.buffer("exp_avg"), pool.buffer("exp_avg_sq")
        step_rows(pool.weights, pool.gradients, *moments, slots, terms)
        return dict(zip(settings, norms, strict=True))

    def _update(self, slot: int, gradient: Tensor, wanted: AdamW) -> None:
        adamw(
            [self._pool.weights[slot]],
            [gradient],
            [self._pool.buffer("exp_avg")[slot]],
            [self._pool.buffer("exp_avg_sq")[slot]],
            [],
            [self._pool.steps[slot]],
            fused=True,
            amsgrad=False,
            beta1=wanted.betas[0],
            beta2=wanted.betas[1],
            lr=wanted.lr,
            weight_decay=wanted.weight_decay,
            eps=wanted.eps,
            maximize=False,
        )


def _terms(settings: Mapping[int, AdamW], steps: Tensor, norms: Tensor) -> Tensor:
    """Put together what each slot's numbers are multiplied with and divided by."""
    wanted = [
        (one.lr, *one.betas, one.eps, one.weight_decay, torch.inf if one.clip is None else one.clip)
        for one in settings.values()
    ]
    numbers = torch.tensor(wanted, dtype=torch.float64).to(steps.device)
    lr, beta1, beta2, eps, decay, clip = numbers.unbind(1)
    terms = (
        (clip / (norms + 1e-6)).clamp(max=1.0),
        1 - lr * decay,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        lr / (1 - beta1**steps),
        (1 - beta2**steps).sqrt(),
        eps,
    )
    return torch.stack(terms, dim=1).float()
