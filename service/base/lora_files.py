"""PEFT's adapter files, checked against the base before PEFT sees them.

PEFT loads files with missing keys and with NaN without a word, and one that it refuses leaves its
name behind: so nothing unchecked reaches it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from service.base.lora_rules import BadLora, PlainLora, check_tensors, plain

WEIGHTS_FILE = "adapter_model.safetensors"


class LoraFiles(msgspec.Struct, frozen=True):
    """A checked adapter: `tensors` by PEFT's own keys, in fp32."""

    rank: int
    alpha: float
    rslora: bool
    targets: list[str]
    tensors: dict[str, Tensor]


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Give (in, out) features of each linear layer, by its path in the model."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def read_lora(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> LoraFiles:
    """Read and check an adapter folder. Raises BadLora."""
    lora = check_lora(folder, shapes)
    with _readable():
        tensors = load_file(folder / WEIGHTS_FILE)
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadLora(f"{key} is not finite")
    return LoraFiles(
        rank=lora.rank,
        alpha=lora.alpha,
        rslora=lora.rslora,
        targets=lora.targets,
        tensors={key: tensor.float() for key, tensor in tensors.items()},
    )


def check_lora(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> PlainLora:
    """Check an adapter folder by its config and its tensors' shapes alone. Raises BadLora."""
    lora = lora_config(folder)
    with _readable(), safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        found = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    check_tensors(found, lora, shapes)
    return lora


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as fault:
        raise BadLora(f"{WEIGHTS_FILE} cannot be read: {fault}") from None


def lora_config(folder: Path) -> PlainLora:
    """Read an adapter folder's config. Raises BadLora."""
    try:
        content = (folder / "adapter_config.json").read_bytes()
        config = msgspec.json.decode(content, type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as fault:
        raise BadLora(f"adapter_config.json cannot be read: {fault}") from None
    return plain(config)
