"""The resident base with any number of LoRA adapters on it, mixed row by row in one forward pass.

PEFT does it; this is where its sharp edges are covered (each has a regression test).
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.model import _adapter_names_pre_forward_hook
from peft.utils import set_peft_model_state_dict
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from service.base.lora_files import BadLora, LoraFiles, linear_shapes

_BASE = "__base__"
_KEPT = "kept"
"""An adapter that is never used: when the last one is deleted, PEFT's model is unusable."""


class MixedLora:
    """Owns the model. Not thread-safe: one thread does everything."""

    def __init__(self, model: Any) -> None:
        _require_plain_cache(model.config)
        self.shapes = linear_shapes(model)
        target = next(name for name in self.shapes if ".layers." in f".{name}")
        dummy = LoraConfig(r=1, target_modules=[target], task_type="CAUSAL_LM", inference_mode=True)
        self._model = get_peft_model(model, dummy, adapter_name=_KEPT)
        self._model.eval()

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        return self._model.device

    @property
    def adapters(self) -> set[str]:
        """The names that can be used."""
        return set(self._model.peft_config) - {_KEPT}

    def add(self, name: str, files: LoraFiles) -> None:
        """Put an adapter on the base, wholly or not at all. Raises BadLora."""
        if name in self._model.peft_config or name == _BASE or "." in name or not name:
            raise ValueError(f"the adapter name {name!r} cannot be used")
        config = LoraConfig(
            r=files.rank,
            lora_alpha=files.alpha,
            use_rslora=files.rslora,
            target_modules=list(files.targets),
            task_type="CAUSAL_LM",
            inference_mode=True,
        )
        try:
            self._model.add_adapter(name, config, low_cpu_mem_usage=True)
            tensors = {key: tensor.to(self.device) for key, tensor in files.tensors.items()}
            set_peft_model_state_dict(self._model, tensors, name, low_cpu_mem_usage=True)
            self._model.eval()
            self._check_loaded(name, files)
        except Exception as fault:
            self._discard(name)
            raise BadLora(f"the adapter could not be put on the base: {fault}") from fault

    def remove(self, name: str) -> None:
        """Take an adapter off the base."""
        self._model.delete_adapter(name)

    def forward(
        self,
        adapters: Sequence[str | None],
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: DynamicCache,
    ) -> Tensor:
        """Return the last column's logits, each row's through its own adapter (None: the base)."""
        try:
            output = self._model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                adapter_names=[_BASE if name is None else name for name in adapters],
                use_cache=True,
                logits_to_keep=1,
            )
        except BaseException:
            self.clear_hooks()
            raise
        return output.logits[:, -1]

    def clear_hooks(self) -> int:
        """Remove what PEFT leaves behind when a forward pass raises; returns how many.

        They carry the failed batch's adapter names: the next batch would be answered with those.
        """
        found = 0
        for module in self._model.modules():
            for number, hook in list(module._forward_pre_hooks.items()):
                if getattr(hook, "func", None) is _adapter_names_pre_forward_hook:
                    del module._forward_pre_hooks[number]
                    module._forward_pre_hooks_with_kwargs.pop(number, None)
                    found += 1
        return found

    def _check_loaded(self, name: str, files: LoraFiles) -> None:
        held = {
            f"{path}.{half}.weight": getattr(layer, half)[name].weight
            for path, layer in self._layers()
            for half in ("lora_A", "lora_B")
            if name in layer.lora_A
        }
        if held.keys() != files.tensors.keys():
            raise BadLora("PEFT placed the adapter on other layers than it was made for")
        for key, tensor in files.tensors.items():
            weight = held[key].detach()
            # PEFT holds an adapter in what the base computes in: bf16 on CUDA.
            if not torch.equal(weight, tensor.to(weight)):
                raise BadLora(f"{key} did not arrive as it was stored")

    def _layers(self) -> list[tuple[str, LoraLayer]]:
        modules = self._model.named_modules()
        return [(path, module) for path, module in modules if isinstance(module, LoraLayer)]

    def _discard(self, name: str) -> None:
        if name in self._model.peft_config:
            self._model.delete_adapter(name)
        for _, layer in self._layers():
            layer.delete_adapter(name)


def _require_plain_cache(config: Any) -> None:
    layers = DynamicCache(config=config).layers
    if not layers or not all(isinstance(layer, DynamicLayer) for layer in layers):
        raise ValueError("only models whose layers are all attention layers can be served")
