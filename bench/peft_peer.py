"""PEFT as the peer: many tenants' adapters resident on one base."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from bench.workload import ALPHA, ATTENTION, CLIP, LEARNING_RATE, RANK


def lora_config(
    targets: Sequence[str], dropout: float = 0.0, *, distinct: bool = False
) -> LoraConfig:
    """Spell the benches' adapter as PEFT does; `distinct` ones change what the model says."""
    return LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=dropout,
        target_modules=list(targets),
        init_lora_weights=not distinct,
        task_type="CAUSAL_LM",
    )


def with_adapters(model: Any, config: LoraConfig, count: int, **how: bool) -> PeftModel:
    """Put `t0`, `t1`, ... on the model; `unload` gives it back."""
    peft = get_peft_model(model, config, adapter_name="t0", **how)
    for number in range(1, count):
        peft.add_adapter(f"t{number}", config, **how)
    return peft


class MixedPeft:
    """A model with adapters of which a batch's rows can each name one."""

    def __init__(self, model: Any, adapters: int) -> None:
        config = lora_config(ATTENTION, distinct=True)
        # In the model's own dtype: what it would cast in each layer is only worth it in training.
        self._model = with_adapters(model, config, adapters, autocast_adapter_dtype=False).eval()

    def decode(self, prompts: Tensor, adapters: int) -> "Decoding":
        """Begin a batch of `[rows, tokens]` whose rows name the first so many in turn."""
        names = [f"t{row % adapters}" for row in range(len(prompts))]
        return Decoding(self._model, prompts, adapter_names=names)

    def weights(self, adapter: int) -> dict[str, Tensor]:
        """Give an adapter's weights by PEFT's keys."""
        state = get_peft_model_state_dict(self._model, adapter_name=f"t{adapter}")
        return {key: tensor.detach() for key, tensor in state.items()}

    def close(self) -> None:
        """Give the model back."""
        self._model.unload()


class Decoding:
    """A greedy batch on transformers' own cache; equal prompts, so no padding: its best case."""

    def __init__(self, model: Any, prompts: Tensor, **names: list[str]) -> None:
        """`names` are PEFT's `adapter_names`; without them it is the bare model."""
        self._model = model
        self._names = names
        self._cache = DynamicCache(config=model.config)
        self._next = prompts

    def step(self) -> list[int]:
        """Give every row its next token; the first step reads the prompts."""
        with torch.no_grad():
            out = self._model(
                input_ids=self._next,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                **self._names,
            )
        self._next = out.logits[:, -1].argmax(-1, keepdim=True)
        tokens: list[int] = self._next[:, 0].tolist()
        return tokens


class SerialPeft:
    """Training one tenant after another; the adapters and their optimizers stay resident."""

    def __init__(
        self, model: Any, tenants: Sequence[Tensor], config: LoraConfig, switching: bool
    ) -> None:
        """`tenants` hold each one's `[rows, tokens]`; without `switching`, all train `t0`."""
        self._tenants = tenants
        self._switching = switching
        self._model = with_adapters(model, config, len(tenants))
        self._model.train()
        self._optimizers = [self._optimizer(f"t{tenant}") for tenant in range(len(tenants))]
        self._model.set_adapter("t0")

    def round(self) -> list[Tensor]:
        """One step for every tenant; gives their mean losses."""
        return [self._step(tenant) for tenant in range(len(self._tenants))]

    def close(self) -> None:
        """Give the model back."""
        self._model.unload()

    def _optimizer(self, name: str) -> torch.optim.AdamW:
        self._model.set_adapter(name)
        chosen = [p for p in self._model.parameters() if p.requires_grad]
        return torch.optim.AdamW(chosen, lr=LEARNING_RATE, fused=chosen[0].is_cuda)

    def _step(self, tenant: int) -> Tensor:
        if self._switching:
            self._model.set_adapter(f"t{tenant}")
        optimizer = self._optimizers[tenant if self._switching else 0]
        ids = self._tenants[tenant]
        logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()
