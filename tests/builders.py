"""Real files for tests, small, and made without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from adapters_store import MergeOrigin, Origin
from service.database import Database
from service.tenants.allowances import Allowance, Limiter
from service.tenants.limits import NONE

CONFIG: dict[str, Any] = {
    "alpha_pattern": {},
    "base_model_name_or_path": "/somewhere/lorehouse-tiny",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "rank_pattern": {},
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}


def an_origin(**changes: Any) -> Origin:
    """Describe where an adapter for the bundled base came from."""
    origin: dict[str, Any] = {
        "base": "lorehouse-tiny",
        "base_digest": "b" * 64,
        "quantization": "none",
        "compute_dtype": "float32",
        "tokenizer_digest": "c" * 64,
        "chat_template_digest": "d" * 64,
        "format": "chat",
    }
    return Origin(**origin | changes)


def an_allowance() -> Allowance:
    """Let a request take what it likes; the database is never asked."""
    return Allowance(Limiter(Database("sqlite+aiosqlite://")), "acme", NONE)


def a_merge_origin(**changes: Any) -> MergeOrigin:
    """Describe a merge into the bundled base."""
    origin = {"base": "lorehouse-tiny", "base_digest": "b" * 64, "method": "plain"}
    return MergeOrigin(**origin | changes)


def a_model_folder(path: Path, size: int = 3_000_000) -> Path:
    """Write what looks like a merged model: a shard of several blocks, and smaller files."""
    path.mkdir(parents=True, exist_ok=True)
    shard = np.random.default_rng(0).bytes(size)
    (path / "model-00001-of-00001.safetensors").write_bytes(shard)
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "chat_template.jinja").write_text("")
    return path


def a_peft_folder(
    path: Path,
    rank: int = 4,
    seed: int = 0,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    layers: int = 2,
    hidden: int = 16,
    weights: dict[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """Write the two files that PEFT writes: random LoRA weights that differ by `seed`.

    `weights` are added to them or replace them by name; `config` does so for the config.
    """
    path.mkdir(parents=True, exist_ok=True)
    document = CONFIG | {"r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets)}
    (path / "adapter_config.json").write_text(json.dumps(document | config))
    tensors = lora_weights(rank, seed, targets, layers, hidden) | (weights or {})
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    return path


def lora_weights(
    rank: int, seed: int, targets: Sequence[str], layers: int, hidden: int
) -> dict[str, np.ndarray]:
    """Make the pairs of matrices, under PEFT's names."""
    random = np.random.default_rng(seed)
    shapes = {"A": (rank, hidden), "B": (hidden, rank)}
    return {
        module_name(layer, target, side): random.normal(size=shape).astype(np.float32)
        for layer in range(layers)
        for target in targets
        for side, shape in shapes.items()
    }


def module_name(layer: int, target: str, side: str) -> str:
    """Name one matrix of Llama's attention as PEFT does."""
    return f"base_model.model.model.layers.{layer}.self_attn.{target}.lora_{side}.weight"
