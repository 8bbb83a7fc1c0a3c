"""The bases that benches run on."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from service.base.description import describe
from service.base.loading import ComputeDtype, Quantization, load_base
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
TOKENS = {"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 4}
"""The bundled tokenizer's."""
HELD: dict[str, tuple[Quantization, ComputeDtype]] = {
    "nf4": ("nf4", "float32"),
    "nf4 in bf16": ("nf4", "bfloat16"),
    "fp32": ("none", "float32"),
    "bf16": ("none", "bfloat16"),
}
"""The ways to hold the bundled base, and what it computes in."""
TINY = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def bundled(held: str, threads: int) -> Any:
    """Load the bundled base in one of `HELD`'s ways."""
    base = describe(str(BUNDLED_BASE), "bundled")
    weights, dtype = HELD[held]
    return load_base(base, weights, threads, dtype).model


def random_llama(*, small: bool = False) -> Any:
    """Make a model of Llama-3-8B's architecture in bf16; speed needs no trained weights.

    `small` is a tiny one on the CPU, to try a bench's code.
    """
    config = LlamaConfig(**(LLAMA_3_8B | TOKENS | (TINY if small else {})))
    config._attn_implementation = "sdpa"
    with torch.device("cpu" if small else "cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.requires_grad_(False).eval()


def save_llama(folder: Path, *, small: bool = False) -> None:
    """Save such a model as a base that a service can load, with the bundled base's tokenizer."""
    model = random_llama(small=small)
    model.save_pretrained(folder)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED_BASE / name, folder)
    # Each token is a piece of text: a stream says nothing of those that are none.
    tokenizer = json.loads((BUNDLED_BASE / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    named = {*words.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    words |= {f"w{at}": at for at in range(model.config.vocab_size) if at not in named}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def served(folder: Path, args: Any) -> Path:
    """Find a preset's base for the service; that of `h200` is made where `--base` says, once."""
    if args.preset == "cpu":
        return BUNDLED_BASE
    base: Path = args.base or folder / "base"
    if not base.exists():
        save_llama(base, small=args.small)
    return base


def quantise(model: Any) -> Any:
    """Hold every linear but the head in NF4, double quantised, as bitsandbytes loads it."""
    head = model.get_output_embeddings()
    for name, linear in list(model.named_modules()):
        if type(linear) is nn.Linear and linear is not head:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _four_bits(linear))
    # As loading sets it: PEFT and TRL look here.
    model.is_loaded_in_4bit = True
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
