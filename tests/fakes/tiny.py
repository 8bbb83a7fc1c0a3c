"""A tiny random base and random adapters on it: real files, made in a moment."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adapters_store import AdapterStore, Origin, RevisionRef
from service.adapters.origins import origin_on
from service.base.description import BaseDescription, describe
from service.settings import BUNDLED_BASE

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
VOCABULARY = 4096
CONTEXT = 256


def tiny_model(**changes: object) -> LlamaForCausalLM:
    """Make the model; the same one each time."""
    torch.manual_seed(0)
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        # 32 numbers a head: the fewest that vLLM's attention takes.
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        # Far from the usual 0.02, so that what comes out depends on all of what went in.
        "initializer_range": 0.2,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**{**config, **changes})).eval()


def tiny_base(folder: Path) -> BaseDescription:
    """Write the model and the bundled base's tokenizer as a base of its own."""
    tiny_model().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED_BASE / name, folder / name)
    return describe(str(folder), "tiny")


def write_adapter(
    folder: Path, *, seed: int, rank: int = 8, targets: Sequence[str] = ALL, rslora: bool = False
) -> Path:
    """Write PEFT's files of a random adapter that changes every answer."""
    model = tiny_model()
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(targets),
        use_rslora=rslora,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def publish(
    store: AdapterStore, base: BaseDescription, tenant: str, adapter: str, **made: object
) -> RevisionRef:
    """Publish a random adapter as a revision made for `base`."""
    with store.stage() as staged:
        write_adapter(staged, **made)  # type: ignore[arg-type]
        return store.publish(tenant, adapter, staged, origin_of(base)).ref


def origin_of(base: BaseDescription) -> Origin:
    """Say that an adapter was made for `base`."""
    return origin_on(base, "chat", quantization="none", compute_dtype="float32")
