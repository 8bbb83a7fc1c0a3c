"""A LoRA on the resident base for the length of one task, and its files in PEFT's format."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from peft import LoraConfig, PeftModel

from service.training.spec import LoraSpec


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


@contextmanager
def lent(base: Any) -> Iterator[None]:
    """Lend the base to a trainer, and take back whatever was put on it, however the task ends.

    A trainer injects LoRA layers and puts a forward of its own on the instance.
    """
    forward = base.__dict__.get("forward")
    try:
        yield
    finally:
        _strip(base)
        base.__dict__.pop("forward", None)
        if forward is not None:
            base.forward = forward
        base.requires_grad_(requires_grad=False)
        base.eval()


def _strip(base: Any) -> None:
    """Put the plain linear layers back where LoRA layers stand."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(base.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, name, child.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config
    base._hf_peft_config_loaded = False


def keep_fp32(model: PeftModel) -> None:
    """Hold the LoRA weights in fp32.

    TRL casts them to bf16 on a quantised base, but a resumed run reads them back as fp32: its
    weights would drift from those of a run that was never interrupted.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def write(model: PeftModel, folder: Path, base_name: str) -> Path:
    """Write the adapter as PEFT does, naming the base by its public id instead of a path."""
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = msgspec.json.decode(path.read_bytes())
    config["base_model_name_or_path"] = base_name
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
    return folder
