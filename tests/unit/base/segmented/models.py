"""Tiny random models of several architectures, exact in float64, and what PEFT says of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from service.base.segmented.base import SegmentedBase
from service.base.segmented.batch import Batch
from service.base.segmented.layout import Part, loss_rows
from service.base.segmented.loss import TokenLosses
from service.base.segmented.slots import Held
from service.training.spec import LoraSpec

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = ALL[:4]
VOCABULARY = 131
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
}


def make(architecture: str = "llama", dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Make the model; the same one each time."""
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "sliding_window": None,
        "bos_token_id": 0,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    config = CONFIGS[architecture](**{**settings, **changes})
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for name, module in list(model.named_modules()):
        # Transformers' own norms compute in float32 whatever they are given.
        if type(module).__name__.endswith("RMSNorm"):
            exact = nn.RMSNorm(module.weight.shape[0], eps=module.variance_epsilon, dtype=dtype)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, exact)
    return model


class OneSet:
    """A base with one set of slots on it."""

    def __init__(
        self,
        model: Any,
        *,
        capacity: int,
        rank: int,
        dtype: torch.dtype = torch.float32,
        **how: Any,
    ) -> None:
        self.base = SegmentedBase(model, **how)
        self.slots = self.base.slots(capacity=capacity, rank=rank, dtype=dtype)
        self.pool = self.slots.pool

    def batch(self, parts: Iterable[Part]) -> Batch:
        return self.base.batch(self.slots, parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def spec(rank: int, targets: Sequence[str] = ALL, **changes: Any) -> LoraSpec:
    """Give a shape without dropout, with an alpha that is not the usual double."""
    given = {"rank": rank, "alpha": 1.5 * rank + 1, "dropout": 0.0, "target_modules": targets}
    return LoraSpec(**{**given, **changes})


def randomise(base: OneSet, slot: int, seed: int) -> dict[str, Tensor]:
    """Give a slot weights that change every answer, B included; returns copies."""
    random = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.randn(view.shape, generator=random, dtype=torch.float64) * 0.2
        for key, view in base.slots.weights(slot).items()
    }
    base.slots.put(slot, weights)
    return weights


def random_ids(batch: Batch, seed: int = 5) -> Tensor:
    """Fill a batch."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (batch.layout.tokens,), generator=random)


def forward_backward(
    base: OneSet, batch: Batch, ids: Tensor
) -> tuple[Tensor, TokenLosses, list[float]]:
    """Train on all tokens, each part's loss averaged over its own; give logits, losses, means."""
    rows, targets = loss_rows(batch.layout.lengths, ids.tolist(), [1] * len(ids))
    owners = [i for i, part in enumerate(batch.layout.parts) for _ in range(part.tokens)]
    owned = torch.tensor([owners[row] for row in rows])
    weights = 1 / torch.bincount(owned).double()[owned]
    with base.running(batch):
        hidden = base.hidden(batch, ids)
        losses = base.loss(hidden, torch.tensor(rows), torch.tensor(targets), weights)
        losses.total.backward()
    means = torch.zeros(len(batch.layout.parts), dtype=losses.nll.dtype)
    means.index_add_(0, owned, losses.nll * weights.to(losses.nll.dtype))
    return base.logits(hidden.detach()), losses, means.tolist()


def by_peft(
    model: Any, held: Held, weights: Mapping[str, Tensor], lengths: Sequence[int], ids: Tensor
) -> tuple[Tensor, float, dict[str, Tensor]]:
    """Give the logits, mean loss and gradients of one adapter by PEFT, one example at a time."""
    config = LoraConfig(
        r=held.rank,
        lora_alpha=held.alpha,
        use_rslora=held.rslora,
        target_modules=list(held.target_modules),
        task_type="CAUSAL_LM",
    )
    twin = get_peft_model(model, config, autocast_adapter_dtype=False)
    set_peft_model_state_dict(twin, dict(weights))
    logits, total = [], torch.zeros((), dtype=torch.float64)
    for example in ids.split(list(lengths)):
        logits.append(twin(input_ids=example[None], use_cache=False).logits[0])
        total = total + functional.cross_entropy(logits[-1][:-1], example[1:], reduction="sum")
    mean = total / (sum(lengths) - len(lengths))
    mean.backward()
    gradients = {
        key.replace(".default", ""): parameter.grad
        for key, parameter in twin.named_parameters()
        if parameter.grad is not None
    }
    twin.unload()
    return torch.cat(logits).detach(), float(mean.detach()), gradients


def apart(one: Tensor, other: Tensor) -> float:
    """Give the relative Frobenius distance."""
    return float((one.double() - other.double()).norm() / other.double().norm())
