"""Which adapter has which slot: allocate, load, save, free."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.base.lora_files import LoraFiles
from service.base.lora_rules import PREFIX, scaling
from service.base.segmented.pool import Pool, named


class LoraShape(Protocol):
    """What decides an adapter's shape; a training spec's `lora` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def dropout(self) -> float: ...
    @property
    def target_modules(self) -> Sequence[str]: ...
    @property
    def rslora(self) -> bool: ...


class BadShape(ValueError):
    """The adapter does not fit into these slots; the message says why."""


class NoFreeSlot(Exception):
    """All slots are taken."""


class Held(msgspec.Struct, frozen=True):
    """What a slot holds."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    target_modules: tuple[str, ...]
    layers: tuple[str, ...]
    """Which layers they target, in the model's order."""

    @property
    def scaling(self) -> float:
        """What the product of A and B is multiplied with."""
        return scaling(self.rank, self.alpha, rslora=self.rslora)


class Slots:
    """Hand out the rows of a pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._held: dict[int, Held] = {}

    def __getitem__(self, slot: int) -> Held:
        return self._held[slot]

    @property
    def taken(self) -> frozenset[int]:
        """The slots in use."""
        return frozenset(self._held)

    def allocate(self, shape: LoraShape, seed: int) -> int:
        """Take a slot for a new adapter: PEFT's initialisation, from this seed alone.

        Raises NoFreeSlot and BadShape.
        """
        held = self._check(shape)
        slot = self._take(held)
        random = torch.Generator().manual_seed(seed)
        for name in held.layers:
            a = torch.empty(held.rank, self.pool.shapes[name][0])
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=random)
            self._of(self.pool.weights, slot, name)[0].copy_(a)
        return slot

    def load(self, files: LoraFiles, dropout: float = 0.0) -> int:
        """Take a slot for an adapter as PEFT stored it. Raises NoFreeSlot and BadShape."""
        shape = _Stored(files.rank, files.alpha, dropout, tuple(files.targets), files.rslora)
        held = self._check(shape)
        slot = self._take(held)
        self.put(slot, files.tensors)
        return slot

    def put(self, slot: int, weights: Mapping[str, Tensor]) -> None:
        """Overwrite a slot's weights, by PEFT's keys. Raises BadShape unless all are given."""
        views = self.weights(slot)
        if views.keys() != weights.keys():
            raise BadShape("these are not the slot's weights")
        for key, view in views.items():
            if view.shape != weights[key].shape:
                raise BadShape(f"{key} has shape {tuple(weights[key].shape)}")
        with torch.no_grad():
            for key, view in views.items():
                view.copy_(weights[key])

    def take_over(self, others: "Slots") -> None:
        """Become what others are: slot by slot, with gradients, moments and counts of steps.

        There must be as many here, of no lower rank, and none in use.
        """
        self._held = dict(others._held)
        for name in others.pool.buffers:
            mine, theirs = self.pool.buffer(name), others.pool.buffer(name)
            for slot in self._held:
                given = others.views(theirs, slot)
                for key, view in self.views(mine, slot).items():
                    view.copy_(given[key])
        self.pool.steps.copy_(others.pool.steps)

    def free(self, slot: int) -> None:
        """Give the slot back; nothing of the adapter stays in it."""
        del self._held[slot]
        self.pool.clear(slot)

    def weights(self, slot: int) -> dict[str, Tensor]:
        """View a slot's weights in PEFT's shapes, by PEFT's keys."""
        return self.views(self.pool.weights, slot)

    def gradients(self, slot: int) -> dict[str, Tensor]:
        """View what was summed since the slot's last step, like `weights`."""
        return self.views(self.pool.gradients, slot)

    def views(self, buffer: Tensor, slot: int) -> dict[str, Tensor]:
        """View a slot's row of one of the pool's buffers, without padding, like `weights`."""
        views = {}
        for name in self._held[slot].layers:
            a, b = self._of(buffer, slot, name)
            views[f"{PREFIX}{name}.lora_A.weight"] = a
            views[f"{PREFIX}{name}.lora_B.weight"] = b
        return views

    def save(self, slot: int, folder: Path, base_name: str) -> None:
        """Write PEFT's two files in fp32."""
        write_files(self._held[slot], self.weights(slot), folder, base_name)

    def _of(self, buffer: Tensor, slot: int, name: str) -> tuple[Tensor, Tensor]:
        rank = self._held[slot].rank
        a = self.pool.a(buffer, name)[slot, :, :rank]
        b = self.pool.b(buffer, name)[slot, :rank]
        return a.t(), b.t()

    def _check(self, shape: LoraShape) -> Held:
        if not 1 <= shape.rank <= self.pool.most_rank:
            raise BadShape(f"rank {shape.rank} is not in 1 to {self.pool.most_rank}")
        if not 0 <= shape.dropout < 1:
            raise BadShape(f"dropout {shape.dropout} is not in 0 to 1")
        names = tuple(shape.target_modules)
        layers = [name for name in self.pool.shapes if any(named(name, t) for t in names)]
        if missing := [t for t in names if not any(named(name, t) for name in layers)]:
            raise BadShape(f"no layer with slots is named {', '.join(missing)}")
        if not layers:
            raise BadShape("no layer is targeted")
        return Held(shape.rank, shape.alpha, shape.dropout, shape.rslora, names, tuple(layers))

    def _take(self, held: Held) -> int:
        free = (slot for slot in range(self.pool.capacity) if slot not in self._held)
        slot = next(free, None)
        if slot is None:
            raise NoFreeSlot(f"all {self.pool.capacity} slots are taken")
        self._held[slot] = held
        return slot


def write_files(held: Held, weights: Mapping[str, Tensor], folder: Path, base_name: str) -> None:
    """Write what a slot held as PEFT's two files in fp32; `weights` may be a copy made before."""
    tensors = {key: tensor.float().contiguous().cpu() for key, tensor in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = msgspec.json.encode(_config(held, base_name), order="sorted")
    (folder / "adapter_config.json").write_bytes(msgspec.json.format(config, indent=2))


class _Stored(msgspec.Struct, frozen=True):
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    rslora: bool


def _config(held: Held, base_name: str) -> dict[str, object]:
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(held.alpha) if held.alpha == int(held.alpha) else held.alpha,
        "lora_dropout": held.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": held.rank,
        "target_modules": sorted(held.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": held.rslora,
    }
