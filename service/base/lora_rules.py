"""What can be served of PEFT's LoRA, and which tensors it then has. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

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


def scaling(rank: int, alpha: float, *, rslora: bool) -> float:
    """Give what the product of A and B is multiplied with."""
    return alpha / (math.sqrt(rank) if rslora else rank)


class PlainLora(msgspec.Struct, frozen=True):
    """What a config says of an adapter that can be served."""

    rank: int
    alpha: float
    rslora: bool
    targets: list[str]


def plain(config: Mapping[str, Any]) -> PlainLora:
    """Read the content of an adapter_config.json. Raises BadLora."""
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise BadLora("only LoRA without bias can be served")
    if special := [name for name in _MUST_BE_EMPTY if config.get(name)]:
        raise BadLora(f"only plain LoRA can be served, not one with {', '.join(special)}")
    rank, alpha, targets = (config.get(name) for name in ("r", "lora_alpha", "target_modules"))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise BadLora("r and lora_alpha must be positive numbers")
    if not isinstance(targets, list) or not all(isinstance(t, str) and t for t in targets):
        raise BadLora("target_modules must be a list of names")
    return PlainLora(rank, float(alpha), bool(config.get("use_rslora")), sorted(targets))


def check_tensors(
    found: Mapping[str, Sequence[int]], lora: PlainLora, shapes: Mapping[str, tuple[int, int]]
) -> None:
    """Hold tensors' shapes, by PEFT's keys, to the base's; `shapes` are its linears' (in, out).

    Raises BadLora.
    """
    expected = _expected(lora, shapes)
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())[0]
        raise BadLora(f"{odd} is {'unexpected' if odd in found else 'missing'}")
    for key, shape in found.items():
        if tuple(shape) != expected[key]:
            raise BadLora(f"{key} has shape {tuple(shape)}, not {expected[key]}")


def _expected(lora: PlainLora, shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    expected = {}
    for name, (features_in, features_out) in shapes.items():
        if any(name == target or name.endswith(f".{target}") for target in lora.targets):
            expected[f"{PREFIX}{name}.lora_A.weight"] = (lora.rank, features_in)
            expected[f"{PREFIX}{name}.lora_B.weight"] = (features_out, lora.rank)
    if not expected:
        raise BadLora("no layer of the base is targeted")
    return expected
