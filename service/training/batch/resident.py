"""The resident base with room for adapters of any rank."""

from collections.abc import Callable, Iterable

import torch

from service.base.segmented.base import SegmentedBase
from service.base.segmented.batch import Batch, go_on
from service.base.segmented.layout import Part
from service.base.segmented.optimizer import SlotAdamW, SlotState
from service.base.segmented.pool import named
from service.base.segmented.slots import BadShape, Slots
from service.training.batch.faults import bad_shape, no_such_layer
from service.training.batch.states import State, copied
from service.training.spec import LoraSpec

Tensors = dict[str, torch.Tensor]


class Resident:
    """Training's own slots on the base, and their optimizer.

    They are widened when an adapter of a greater rank comes: slots keep their numbers, weights,
    gradients and moments then.
    """

    def __init__(
        self,
        base: SegmentedBase,
        capacity: int,
        rank: int,
        dtype: torch.dtype,
        pause: Callable[[], None] = go_on,
    ) -> None:
        self.base = base
        self._capacity = capacity
        self._dtype = dtype
        self.pause = pause
        self.slots, self.optimizer = self._make(rank)

    def batch(self, parts: Iterable[Part]) -> Batch:
        """Lay parts out; others have their turns while it runs."""
        return self.base.batch(self.slots, parts, pause=self.pause)

    def allocate(self, shape: LoraSpec, seed: int) -> int:
        """Take a slot. Raises NoFreeSlot, and TrainingError for what the base cannot carry."""
        self._check_targets(shape)
        if shape.rank > self.slots.pool.most_rank:
            self._widen(shape.rank)
        try:
            return self.slots.allocate(shape, seed)
        except BadShape as fault:
            raise bad_shape(str(fault)) from None

    def free(self, slot: int) -> None:
        """Give a slot back."""
        self.slots.free(slot)

    def forget_gradient(self, slot: int) -> None:
        """Drop what was summed since the slot's last step."""
        self.slots.pool.gradients[slot].zero_()

    def weights(self, slot: int) -> Tensors:
        """Copy a slot's weights."""
        return copied(self.slots.weights(slot), self.pause)

    def moments(self, slot: int) -> SlotState:
        """Copy a slot's moments."""
        held = self.optimizer.state(slot)
        exp_avg, exp_avg_sq = (copied(each, self.pause) for each in (held.exp_avg, held.exp_avg_sq))
        return SlotState(held.steps, exp_avg, exp_avg_sq)

    def restore(self, slot: int, state: State) -> None:
        """Put a state back, bit-equal. Raises BadShape unless it is whole."""
        self.slots.put(slot, state.weights)
        self.optimizer.restore(slot, state.optimizer)

    def _make(self, rank: int) -> tuple[Slots, SlotAdamW]:
        slots = self.base.slots(capacity=self._capacity, rank=rank, dtype=self._dtype)
        # Now, when it is one task's fault, and not at a step of all.
        for name in ("weights", "gradients", "exp_avg", "exp_avg_sq"):
            slots.pool.buffer(name)
        return slots, SlotAdamW(slots)

    def _check_targets(self, shape: LoraSpec) -> None:
        there = self.slots.pool.shapes
        missing = [t for t in shape.target_modules if not any(named(name, t) for name in there)]
        if missing:
            raise no_such_layer(missing[0])

    def _widen(self, rank: int) -> None:
        try:
            slots, optimizer = self._make(rank)
        except torch.OutOfMemoryError:
            raise bad_shape(f"there is no memory for rank {rank}") from None
        slots.take_over(self.slots)
        self.slots, self.optimizer = slots, optimizer
