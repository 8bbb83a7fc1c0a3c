"""The adapters that rows name, in slots that are widened when one of a greater rank comes."""

from collections.abc import Collection

import torch

from service.base.generating.room import free_memory
from service.base.lora_files import LoraFiles
from service.base.lora_rules import BadLora
from service.base.segmented.base import SegmentedBase
from service.base.segmented.slots import BadShape, Slots

MOST_OF_FREE = 0.5
"""Of the memory that is free: what wider slots may take."""


class Adapters:
    """At most `most`."""

    def __init__(self, base: SegmentedBase, most: int, rank: int = 16) -> None:
        self._base = base
        self._most = most
        self._names: dict[str, int] = {}
        self._layers: dict[int, frozenset[str]] = {}
        self.slots = self._make(rank)

    @property
    def names(self) -> frozenset[str]:
        """Those that can be used."""
        return frozenset(self._names)

    def slot(self, name: str | None) -> int | None:
        """Give an adapter's slot; None is the bare base's. Raises KeyError for one not there."""
        return None if name is None else self._names[name]

    def layers(self, slots: Collection[int]) -> frozenset[str]:
        """Give the layers at which any of these slots' adapters is."""
        kinds = {self._layers[slot] for slot in slots}
        return next(iter(kinds)) if len(kinds) == 1 else frozenset().union(*kinds)

    def add(self, name: str, files: LoraFiles) -> None:
        """Put an adapter into a slot, wholly or not at all. Raises BadLora, and ValueError."""
        if name in self._names or len(self._names) >= self._most:
            raise ValueError(f"{name!r} is there already, or there is no room for it")
        try:
            if files.rank > self.slots.pool.most_rank:
                self._widen(files.rank)
            self._names[name] = slot = _load(self.slots, files)
            self._layers[slot] = frozenset(self.slots[slot].layers)
        except BadShape as fault:
            raise BadLora(f"the adapter could not be put on the base: {fault}") from fault

    def remove(self, name: str) -> None:
        """Take an adapter off; nothing of it stays."""
        self.slots.free(self._names.pop(name))

    def _make(self, rank: int) -> Slots:
        slots = self._base.slots(capacity=self._most, rank=rank, dtype=self._base.dtype)
        # Now, when it is one adapter's fault, and not at a step of all. (What is made in inference
        # mode could not be written to outside of it, either.)
        assert slots.pool.weights.shape[0] == self._most
        return slots

    def _widen(self, rank: int) -> None:
        self._check_room(rank)
        try:
            wider = self._make(rank)
            names = {name: _load(wider, self._files(slot)) for name, slot in self._names.items()}
            layers = {slot: frozenset(wider[slot].layers) for slot in names.values()}
        except torch.OutOfMemoryError:
            raise BadLora(f"there is no memory for rank {rank}") from None
        self.slots, self._names, self._layers = wider, names, layers

    def _check_room(self, rank: int) -> None:
        pool = self.slots.pool
        wanted = pool.capacity * pool.row * rank // pool.padded_rank * pool.dtype.itemsize
        free = free_memory(self._base.device)
        if wanted > MOST_OF_FREE * free:
            raise BadLora(
                f"slots of rank {rank} need {wanted >> 20} MiB and {free >> 20} MiB are free"
            )

    def _files(self, slot: int) -> LoraFiles:
        held = self.slots[slot]
        return LoraFiles(
            rank=held.rank,
            alpha=held.alpha,
            rslora=held.rslora,
            targets=list(held.target_modules),
            tensors=self.slots.weights(slot),
        )


def _load(slots: Slots, files: LoraFiles) -> int:
    """Load, and leave no half-filled slot behind."""
    before = slots.taken
    try:
        return slots.load(files)
    except BaseException:
        for slot in slots.taken - before:
            slots.free(slot)
        raise
