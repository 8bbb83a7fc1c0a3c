"""Does a merged model say what base and adapter say? Token log-probabilities on a few prompts.

Weights of 16 bit are computed with in fp32 here, so that base plus adapter and merged model differ
by nothing but the rounding of each merged weight. Rounding is a relative error of at most u (2^-8
in bf16) for each weight, independent of the others: what comes out of a linear is then off by about
as much as if it had been rounded itself. To compute base plus adapter in 16 bit rounds there and
everywhere else, so how far that strays from fp32 is what the rounding of weights may stray: the
tolerance is three times it, measured on the same prompts.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from service.base.description import BaseDescription
from service.base.merging.merge import Method, dtype_of
from service.base.merging.nf4 import quantized_modules, there_and_back
from service.base.merging.weights import BaseWeights

FLOOR = 0.01
"""In nats: what nobody would call another answer."""
NOISES = 3.0
HALVES = (torch.float16, torch.bfloat16)

Prompts = Sequence[Sequence[int]]
Own = list[tuple[nn.Parameter, Tensor]]


class Agreement(msgspec.Struct, frozen=True):
    """The largest differences of a token's log-probability, in nats, on the probe prompts."""

    difference: float
    """Merged model and base plus adapter."""
    tolerance: float
    noise: float
    """Base plus adapter computed in 16 bit, and in fp32."""
    effect: float
    """The base with the adapter, and without: what a merge that did nothing would differ by."""
    tokens: int

    @property
    def agrees(self) -> bool:
        """Whether the merged model may stand for the adapter. NaN does not agree."""
        return self.difference <= self.tolerance


def compare(
    base: BaseDescription, adapter: Path, merged: Path, method: Method, prompts: Prompts
) -> Agreement:
    """Score the prompts by base plus adapter, then by the merged model: one is open at a time.

    Raises BaseModelError.
    """
    plain, expected, rounded = _by_adapter(base, adapter, method, prompts)
    model = _open(merged, "auto")
    _Precision(model)
    found = _score(model, prompts)
    noise = _largest(rounded - expected)
    return Agreement(
        difference=_largest(found - expected),
        tolerance=max(FLOOR, NOISES * noise),
        noise=noise,
        effect=_largest(expected - plain),
        tokens=len(expected),
    )


def _by_adapter(
    base: BaseDescription, adapter: Path, method: Method, prompts: Prompts
) -> tuple[Tensor, Tensor, Tensor]:
    """Score without the adapter, with it, and with it in 16 bit."""
    model = _open(base.path, _dtype(base))
    precision = _Precision(model, quantized_modules(base.path) if method == "nf4" else set())
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    expected = _score(adapted, prompts)
    with adapted.disable_adapter():
        plain = _score(adapted, prompts)
    precision.dtype = model.dtype
    return plain, expected, _score(adapted, prompts)


def _dtype(base: BaseDescription) -> torch.dtype:
    held = dtype_of(list(BaseWeights(base.path).entries.values()))
    return torch.float16 if held == "F16" else torch.bfloat16


def _open(folder: Path, dtype: torch.dtype | str) -> Any:
    # Where the files are of that type their pages stay in them, and are no memory of ours.
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    ).eval()


@torch.no_grad()
def _score(model: nn.Module, prompts: Prompts) -> Tensor:
    """Give the log-probability of each prompt's tokens but the first, one after the other.

    All prompts in one pass, so that each weight is widened once.
    """
    ids = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    real = pad_sequence([torch.ones(len(prompt)) for prompt in prompts], batch_first=True).long()
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].float()
    scored = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return scored[real[:, 1:].bool()]


class _Precision:
    """Has a model of 16-bit weights compute in `dtype`, a module at a time.

    Each module's weights are widened for as long as it runs, those of `quantized` after they went
    through NF4.
    """

    def __init__(self, model: nn.Module, quantized: Collection[str] = ()) -> None:
        self.dtype = torch.float32
        for name, module in model.named_modules():
            own = [(p, p.data) for p in module.parameters(recurse=False) if p.dtype in HALVES]
            if own:
                module.register_forward_pre_hook(partial(self._widen, own, name in quantized))
                module.register_forward_hook(partial(self._narrow, own))

    def _widen(self, own: Own, through_nf4: bool, *_: object) -> None:
        for parameter, held in own:
            quantized = through_nf4 and held.ndim > 1
            full = there_and_back(held.float()) if quantized else held
            parameter.data = full.to(self.dtype)

    def _narrow(self, own: Own, *_: object) -> None:
        for parameter, held in own:
            parameter.data = held


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max())
