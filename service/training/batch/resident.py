"""The resident base with room for adapters of any rank."""

from collections.abc import Mapping
from typing import Any

import torch

from service.base.segmented.base import SegmentedBase
from service.base.segmented.optimizer import SlotAdamW, SlotState
from service.base.segmented.pool import named
from service.base.segmented.slots import BadShape, Held
from service.training.batch.faults import bad_shape, no_such_layer
from service.training.batch.states import State, copied
from service.training.spec import LoraSpec

Tensors = dict[str, torch.Tensor]
_Kept = tuple[Held, Tensors, Tensors, SlotState]
"""What a slot held, with copies of its weights, gradients and moments."""


class Resident:
    """Slots and their optimizer. They are widened when an adapter of a greater rank comes.

    Slots keep their numbers, weights, gradients and moments then.
    """

    def __init__(self, model: Any, capacity: int, rank: int, dtype: torch.dtype) -> None:
        self._model = model
        self._capacity = capacity
        self._dtype = dtype
        self.base, self.optimizer = self._make(rank)

    def allocate(self, shape: LoraSpec, seed: int) -> int:
        """Take a slot. Raises NoFreeSlot, and TrainingError for what the base cannot carry."""
        self._check_targets(shape)
        if shape.rank > self.base.pool.most_rank:
            self._widen(shape.rank)
        try:
            return self.base.slots.allocate(shape, seed)
        except BadShape as fault:
            raise bad_shape(str(fault)) from None

    def free(self, slot: int) -> None:
        """Give a slot back."""
        self.base.slots.free(slot)

    def forget_gradient(self, slot: int) -> None:
        """Drop what was summed since the slot's last step."""
        self.base.pool.gradients[slot].zero_()

    def weights(self, slot: int) -> Tensors:
        """Copy a slot's weights."""
        return copied(self.base.slots.weights(slot))

    def moments(self, slot: int) -> SlotState:
        """Copy a slot's moments."""
        held = self.optimizer.state(slot)
        return SlotState(held.steps, copied(held.exp_avg), copied(held.exp_avg_sq))

    def restore(self, slot: int, state: State) -> None:
        """Put a state back, bit-equal. Raises BadShape unless it is whole."""
        self.base.slots.put(slot, state.weights)
        self.optimizer.restore(slot, state.optimizer)

    def close(self) -> None:
        """Give the model back as it was."""
        self.base.remove()

    def _make(self, rank: int) -> tuple[SegmentedBase, SlotAdamW]:
        base = SegmentedBase(self._model, capacity=self._capacity, rank=rank, dtype=self._dtype)
        try:
            # Now, when it is one task's fault, and not at a step of all.
            for name in ("gradients", "exp_avg", "exp_avg_sq"):
                base.pool.buffer(name)
        except torch.OutOfMemoryError:
            base.remove()
            raise
        return base, SlotAdamW(base.pool, base.slots)

    def _check_targets(self, shape: LoraSpec) -> None:
        there = self.base.pool.shapes
        missing = [t for t in shape.target_modules if not any(named(name, t) for name in there)]
        if missing:
            raise no_such_layer(missing[0])

    def _widen(self, rank: int) -> None:
        slots, before = self.base.slots, self.base.pool.most_rank
        kept = {slot: (slots[slot], *self._numbers(slot)) for slot in sorted(slots.taken)}
        # The old slots go before the new ones come.
        self.base.remove()
        del slots, self.base, self.optimizer
        try:
            self._remake(rank, kept)
        except torch.OutOfMemoryError:
            self._remake(before, kept)
            raise bad_shape(f"there is no memory for rank {rank}") from None

    def _remake(self, rank: int, kept: Mapping[int, _Kept]) -> None:
        self.base, self.optimizer = self._make(rank)
        self._fill_up_to(max(kept, default=-1), {slot: held for slot, (held, *_) in kept.items()})
        for slot, (_, weights, gradients, moments) in kept.items():
            self.base.slots.put(slot, weights)
            self.optimizer.restore(slot, moments)
            for key, view in self.base.slots.gradients(slot).items():
                view.copy_(gradients[key])

    def _numbers(self, slot: int) -> tuple[Tensors, Tensors, SlotState]:
        return (self.weights(slot), copied(self.base.slots.gradients(slot)), self.moments(slot))

    def _fill_up_to(self, last: int, held: dict[int, Held]) -> None:
        """Allocate the same numbers: each time the lowest that is free is given."""
        anything = next(iter(held.values()), None)
        for slot in range(last + 1):
            shape = held.get(slot, anything)
            assert shape is not None
            self.base.slots.allocate(shape, seed=0)
        for slot in set(range(last + 1)) - held.keys():
            self.base.slots.free(slot)
