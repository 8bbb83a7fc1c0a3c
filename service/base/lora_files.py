"""PEFT's adapter files, checked against the base before PEFT sees them.

PEFT loads files with missing keys and with NaN without a word, and one that it refuses leaves its
name behind: so nothing unchecked reaches it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

PREFIX = "base_model.model."

_MUST_BE_EMPTY = (
    "modules_to_save", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "exclude_modules",
    "layers_to_transform", "layers_pattern", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "megatron_config", "use_qalora",
    "fan_in_fan_out", "arrow_config", "corda_config", "eva_config",
)  # fmt: skip
"""Settings that change what the weights mean; only plain LoRA mixes in one batch."""


class BadLora(Exception):
    """The files are not a plain LoRA adapter of this base; the message says why."""


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
    config = _config(folder / "adapter_config.json")
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as fault:
        raise BadLora(f"adapter_model.safetensors cannot be read: {fault}") from None
    rank, targets = config["r"], sorted(config["target_modules"])
    _check_tensors(tensors, _expected(shapes, targets, rank))
    return LoraFiles(
        rank=rank,
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora")),
        targets=targets,
        tensors={key: tensor.float() for key, tensor in tensors.items()},
    )


def _config(file: Path) -> dict[str, Any]:
    try:
        config = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as fault:
        raise BadLora(f"adapter_config.json cannot be read: {fault}") from None
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise BadLora("only LoRA without bias can be served")
    if special := [name for name in _MUST_BE_EMPTY if config.get(name)]:
        raise BadLora(f"only plain LoRA can be served, not one with {', '.join(special)}")
    rank, alpha, targets = (config.get(name) for name in ("r", "lora_alpha", "target_modules"))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise BadLora("r and lora_alpha must be positive numbers")
    if not isinstance(targets, list) or not all(isinstance(t, str) and t for t in targets):
        raise BadLora("target_modules must be a list of names")
    return config


def _expected(
    shapes: Mapping[str, tuple[int, int]], targets: list[str], rank: int
) -> dict[str, tuple[int, int]]:
    expected = {}
    for name, (features_in, features_out) in shapes.items():
        if any(name == target or name.endswith(f".{target}") for target in targets):
            expected[f"{PREFIX}{name}.lora_A.weight"] = (rank, features_in)
            expected[f"{PREFIX}{name}.lora_B.weight"] = (features_out, rank)
    if not expected:
        raise BadLora("no layer of the base is targeted")
    return expected


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, int]]) -> None:
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())[0]
        raise BadLora(f"{odd} is {'unexpected' if odd in tensors else 'missing'}")
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != expected[key]:
            raise BadLora(f"{key} has shape {tuple(tensor.shape)}, not {expected[key]}")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadLora(f"{key} is not finite")
