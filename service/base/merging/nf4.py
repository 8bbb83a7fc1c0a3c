"""Weights as QLoRA's training saw them: through NF4 and back."""

from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers.base import get_keys_to_not_convert


def quantized_modules(folder: Path) -> set[str]:
    """Name the modules whose weights `load_base` holds in NF4, without loading any."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    return linear - set(get_keys_to_not_convert(model))


def there_and_back(weight: Tensor) -> Tensor:
    """Quantise an fp32 weight as `load_base` does, and dequantise it to fp32."""
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    restored: Tensor = bnb.dequantize_4bit(packed, state)
    return restored
