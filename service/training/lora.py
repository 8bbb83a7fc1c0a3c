"""A LoRA on a twin of the resident base, and its files in PEFT's format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from service.training.spec import LoraSpec, Method
from service.training.trainer import TrainingError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER = "default"


class AdapterMismatch(Exception):
    """A checkpoint's weights are not those of the adapter that is being trained."""


def peft_config(spec: LoraSpec) -> LoraConfig:
    """Spell a LoRA as PEFT does."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(spec.target_modules),
        use_rslora=spec.rslora,
        bias="none",
    )


def check_targets(base: torch.nn.Module, spec: LoraSpec, method: Method) -> None:
    """Raise TrainingError unless the base has linear layers of each name."""
    linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in spec.target_modules:
        if not any(name.rsplit(".", 1)[-1] == target for name in linear):
            message = f"The base has no linear layer '{target}'"
            raise TrainingError(message, "invalid_value", f"method.{method}.lora.target_modules")


def keep_fp32(model: PeftModel) -> None:
    """Hold the LoRA weights in fp32.

    TRL casts them to bf16 on a quantised base, but a resumed run reads them back as fp32: its
    weights would drift from those of a run that was never interrupted.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def write(model: PeftModel, folder: Path, base_name: str, method: Method) -> Path:
    """Write the adapter's two files, naming the base by its public id instead of a path.

    PEFT's own method asks the hub about the base. Raises TrainingError if a weight is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(model)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise non_finite("A weight of the adapter", method)
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = model.peft_config[_ADAPTER].to_dict()
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    plain = msgspec.json.encode(config, enc_hook=_sorted, order="sorted")
    (folder / CONFIG_FILE).write_bytes(msgspec.json.format(plain, indent=2))
    return folder


def read(model: PeftModel, folder: Path) -> None:
    """Put the weights in `folder` into the adapter. Raises AdapterMismatch."""
    weights = load_file(folder / WEIGHTS_FILE)
    if _shapes(weights) != _shapes(_weights(model)):
        raise AdapterMismatch(str(folder))
    set_peft_model_state_dict(model, weights, _ADAPTER)


def non_finite(what: str, method: Method) -> TrainingError:
    """Say that the arithmetic overflowed."""
    message = f"{what} is no longer a finite number; a lower learning rate may help"
    return TrainingError(message, "non_finite_loss", f"method.{method}.learning_rate")


def _weights(model: PeftModel) -> dict[str, torch.Tensor]:
    state = get_peft_model_state_dict(model, adapter_name=_ADAPTER, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _sorted(value: Any) -> Any:
    # PEFT keeps target modules as a set, whose order differs from process to process.
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise NotImplementedError(type(value))
