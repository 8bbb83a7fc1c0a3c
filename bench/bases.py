"""The bases that benches run on."""

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from service.base.description import describe
from service.base.loading import load_base
from service.settings import BUNDLED_BASE

LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 5e5,
    "max_position_embeddings": 8192,
}


def bundled(quantization: str, threads: int) -> Any:
    """Load the bundled base in fp32 (`none`) or `nf4`."""
    return load_base(describe(str(BUNDLED_BASE), "bundled"), quantization, threads).model


def random_llama(device: str, **changes: int) -> Any:
    """Make a model of Llama-3-8B's architecture in bf16; speed needs no trained weights."""
    config = LlamaConfig(**{**LLAMA_3_8B, **changes})
    config._attn_implementation = "sdpa"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.requires_grad_(False).eval()


def quantise(model: Any) -> Any:
    """Hold every linear but the head in NF4, double quantised, as bitsandbytes loads it."""
    head = model.get_output_embeddings()
    for name, linear in list(model.named_modules()):
        if type(linear) is nn.Linear and linear is not head:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _four_bits(linear))
    return model


def _four_bits(linear: nn.Linear) -> Linear4bit:
    sizes = (linear.in_features, linear.out_features)
    dtype, device = linear.weight.dtype, linear.weight.device
    four = Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
    weight = Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    four.weight = weight.to(device)
    four.support_avx512bf16_for_cpu = False
    return four
