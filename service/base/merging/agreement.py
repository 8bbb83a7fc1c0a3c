"""Does a merged model say what base and adapter say? Token log-probabilities on a few prompts.

Weights of 16 bit are computed with in fp32 here, so that base plus adapter and merged model differ
by nothing but the rounding of each merged weight. Rounding is a relative error of at most u (2^-8
in bf16) for each weight, independent of the others: what comes out of a linear is then off by about
as much as if it had been rounded itself. To compute base plus adapter in 16 bit rounds there and
everywhere else, so how far that strays from fp32 is what the rounding of weights may stray: the
tolerance is three times it, measured on the same prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from service.base.description import BaseDescription
from service.base.loading import load_base
from service.base.merging.merge import Method, dtype_of
from service.base.merging.weights import BaseWeights

FLOOR = 0.01
"""In nats: what nobody would call another answer."""
NOISES = 3.0
HALVES = (torch.float16, torch.bfloat16)

Prompts = Sequence[Sequence[int]]


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
    found = _score(_open(merged, "auto"), prompts)
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
    threads = torch.get_num_threads()
    if method == "nf4":
        rounding = _with(load_base(base, "nf4", threads, "bfloat16").model, adapter)
        rounded = _log_probabilities(rounding, prompts)
        del rounding
        model = _with(load_base(base, "nf4", threads, "float32").model, adapter)
    else:
        model = _with(_open(base.path, _dtype(base)), adapter)
        rounded = _log_probabilities(model, prompts)
    expected = _score(model, prompts)
    with model.disable_adapter():
        return _score(model, prompts), expected, rounded


def _with(model: Any, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(model, str(adapter)).eval()


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


def _score(model: nn.Module, prompts: Prompts) -> Tensor:
    with _in_fp32(model):
        return _log_probabilities(model, prompts)


@torch.no_grad()
def _log_probabilities(model: nn.Module, prompts: Prompts) -> Tensor:
    """Give the log-probability of each prompt's tokens but the first, one after the other."""
    scored = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        scored.append(logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0])
    return torch.cat(scored)


@contextmanager
def _in_fp32(model: nn.Module) -> Iterator[None]:
    """Compute in fp32: each module's own weights are widened for as long as it runs."""
    hooks = []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.dtype in HALVES]
        if own:
            widening = _Widening(own)
            hooks.append(module.register_forward_pre_hook(widening.before))
            hooks.append(module.register_forward_hook(widening.after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Widening:
    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._held = [(parameter, parameter.data) for parameter in parameters]

    def before(self, *_: object) -> None:
        for parameter, held in self._held:
            parameter.data = held.float()

    def after(self, *_: object) -> None:
        for parameter, held in self._held:
            parameter.data = held


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max())
