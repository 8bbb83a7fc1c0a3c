"""Put the segmented linear into a Hugging Face causal LM, and take it out without a trace."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import bitsandbytes
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from service.base.segmented import attention
from service.base.segmented.batch import Context
from service.base.segmented.linear import SegmentedLoraLinear
from service.base.segmented.pool import MULTIPLE, named
from service.base.segmented.products import has_triton

if TYPE_CHECKING:
    from service.base.segmented.fused import Fused


class UnfitBase(ValueError):
    """The model cannot carry slots; the message says why."""


def target_linears(model: Any, targets: Sequence[str] | None) -> dict[str, nn.Linear]:
    """Find the layers by the last parts of their names; None is every linear but the head.

    Raises UnfitBase for a target that is not there or not a plain or 4-bit linear.
    """
    head = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        wanted = targets is None or any(named(name, t) for t in targets)
        if isinstance(module, nn.Linear) and wanted and module is not head:
            found[name] = module
    for name, module in found.items():
        _check(name, module, model.device)
    if missing := [t for t in targets or [] if not any(named(name, t) for name in found)]:
        raise UnfitBase(f"the model has no linear layer named {', '.join(missing)}")
    return found


class Injected:
    """A model whose targets are segmented and whose attention is packed, until `remove`."""

    def __init__(
        self,
        model: Any,
        linears: dict[str, nn.Linear],
        context: Context,
        *,
        cache: bool,
        recompute: bool,
    ) -> None:
        self._model = model
        self._linears = linears
        self._required = [parameter.requires_grad for parameter in model.parameters()]
        self._attention = model.config._attn_implementation
        model.requires_grad_(False)
        model.set_attn_implementation(attention.NAME)
        if model.config._attn_implementation != attention.NAME:
            raise UnfitBase(f"{type(model).__name__} does not let its attention be chosen")
        self._fused = _fused(model)
        for index, (name, linear) in enumerate(linears.items()):
            layer = SegmentedLoraLinear(
                linear, name=name, index=index, context=context, cache=cache
            )
            _replace(model, name, layer)
        self._recomputed: list[nn.Module] = []
        self.recompute(recompute)

    def recompute(self, wanted: bool) -> None:
        """Let layers be computed again on the way back, or keep what it needs. Raises UnfitBase."""
        if wanted and not self._recomputed:
            self._recomputed = _recomputed(self._model)
        for layer in self._recomputed:
            # They do so when they train; what is in them goes on as it was.
            layer.training = wanted

    def remove(self) -> None:
        """Leave the model as it was found."""
        if self._fused is not None:
            self._fused.remove()
        self.recompute(False)
        if self._recomputed:
            self._model.gradient_checkpointing_disable()
        for name, linear in self._linears.items():
            _replace(self._model, name, linear)
        self._model.set_attn_implementation(self._attention)
        for parameter, required in zip(self._model.parameters(), self._required, strict=True):
            parameter.requires_grad_(required)


def _fused(model: Any) -> "Fused | None":
    """Let norms and gates be quick where there is a way."""
    if model.device.type != "cuda" or not has_triton():
        return None
    from service.base.segmented.fused import Fused

    return Fused(model)


def _recomputed(model: Any) -> list[nn.Module]:
    """Find the layers that can be computed again whole, and prepare them for it."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UnfitBase(f"{type(model).__name__} cannot compute its layers again")
    model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    return layers


def _check(name: str, linear: nn.Linear, device: torch.device) -> None:
    if type(linear) not in (nn.Linear, bitsandbytes.nn.Linear4bit):
        raise UnfitBase(f"{name} is a {type(linear).__name__}, not a plain or 4-bit linear")
    if getattr(linear, "support_avx512bf16_for_cpu", False):
        # Its first pass without gradients would repack the weights in place (see loading.py).
        raise UnfitBase(f"{name} may change its weights when it serves")
    if device.type == "cuda" and (linear.in_features % MULTIPLE or linear.out_features % MULTIPLE):
        raise UnfitBase(f"{name} has dimensions that are no multiples of {MULTIPLE}")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
