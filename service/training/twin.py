"""A second model on the base's own weights, for PEFT and TRL to do with as they like."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from bitsandbytes.nn import Params4bit
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from service.base.segmented.linear import SegmentedLoraLinear


def twin(base: Any, pause: Callable[[], None] | None = None) -> Any:
    """Make a plain model whose weights are the base's memory, frozen, and all else its own.

    The base may carry segmented layers and hooks, and may serve and train meanwhile: the twin has
    the layers beneath and no hook but `pause`, which is called before each decoder layer. What is
    done to the twin's modules, parameters (dtype, device, gradients) and config stays there;
    writing into a weight in place does not. Nobody may replace the base's layers during the call.
    """
    memo: dict[int, Any] = {}
    for module in base.modules():
        _share(module, memo)
    for module in base.modules():
        if isinstance(module, SegmentedLoraLinear):
            memo[id(module)] = copy.deepcopy(module.base, memo)
    made = copy.deepcopy(base, memo)
    # The resident base's attention reads its batch's layout, and its checkpointing forgets what
    # random numbers it drew.
    made.set_attn_implementation("sdpa")
    made.gradient_checkpointing_disable()
    made.eval()
    if pause is not None:
        _call_before_layers(made, pause)
    return made


def _share(module: nn.Module, memo: dict[int, Any]) -> None:
    """Note for deepcopy what is not to be copied, or not to come along."""
    for parameter in module._parameters.values():
        if parameter is not None and id(parameter) not in memo:
            memo[id(parameter)] = _same_memory(parameter)
    for buffer in module._buffers.values():
        if buffer is not None:
            memo[id(buffer)] = buffer.detach()
    if (state := getattr(module, "quant_state", None)) is not None:
        memo[id(state)] = state
    for hooks in _hook_tables(module):
        memo[id(hooks)] = OrderedDict()


def _same_memory(parameter: nn.Parameter) -> nn.Parameter:
    if not isinstance(parameter, Params4bit):
        return nn.Parameter(parameter.detach(), requires_grad=False)
    # Shares bytes and quantisation state, but points back at the base's layer.
    same: Params4bit = copy.copy(parameter)
    same.module = None
    return same.requires_grad_(requires_grad=False)


def _hook_tables(module: nn.Module) -> Iterator[Any]:
    for name, value in vars(module).items():
        if "hooks" in name and isinstance(value, dict):
            yield value


def _call_before_layers(model: nn.Module, pause: Callable[[], None]) -> None:
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.register_forward_pre_hook(lambda _module, _args: pause())
