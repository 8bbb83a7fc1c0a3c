"""Adapters for the self-check: random, each of its own, and small on disk."""

from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from adapters_store import AdapterStore, RevisionRef
from service.adapters.origins import origin_on
from service.base.description import BaseDescription
from service.base.lora_rules import PREFIX

TENANT = "self-check"
TARGETS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
"""Where the base has them; all linear layers where it has none of them."""
EFFECT = 1.0
"""What an adapter adds to each of a layer's numbers, about, where inputs are about 1."""


def publish_random(
    store: AdapterStore, base: BaseDescription, count: int, *, effect: float = EFFECT
) -> list[RevisionRef]:
    """Publish so many adapters of rank 1 for `base`, which all change its answers."""
    return [_publish(store, base, number, effect) for number in range(count)]


def _publish(store: AdapterStore, base: BaseDescription, number: int, effect: float) -> RevisionRef:
    origin = origin_on(base, "raw", quantization="none", compute_dtype="float32")
    with store.stage() as folder:
        _write(folder, base, number, effect)
        return store.publish(TENANT, f"secret-{number}", folder, origin).ref


def _write(folder: Path, base: BaseDescription, number: int, effect: float) -> None:
    targets = sorted(TARGETS & base.linear_modules or base.linear_modules)
    chance = np.random.default_rng(number)
    tensors = {}
    for path, (into, out) in sorted(base.linear_shapes.items()):
        if path.rsplit(".", 1)[-1] in targets:
            down = chance.normal(0, into**-0.5, (1, into)).astype(np.float32)
            up = chance.normal(0, effect, (out, 1)).astype(np.float32)
            tensors[f"{PREFIX}{path}.lora_A.weight"] = down
            tensors[f"{PREFIX}{path}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
    }
    (folder / "adapter_config.json").write_bytes(msgspec.json.encode(config))
