"""The base's weights on this machine: frozen, in NF4 or plain, and safe to serve and to train."""

import logging
import os
import warnings
from typing import Any, Literal

# It advises, at import, to install what would fetch code from a hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# PEFT, TRL and we ask transformers in words that will go; the new ones came only lately.
warnings.filterwarnings(
    "ignore",
    "`(is_gradient_checkpointing|gradient_checkpointing(_((en|dis)able|kwargs))?)` is deprecated",
    FutureWarning,
)

import bitsandbytes  # noqa: E402
import msgspec  # noqa: E402
import torch  # noqa: E402
from safetensors import SafetensorError  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

from service.base.description import BaseDescription, BaseModelError  # noqa: E402
from service.base.memory import available_memory, plain_fits  # noqa: E402

Quantization = Literal["nf4", "none"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]


class LoadedBase(msgspec.Struct, frozen=True):
    """The model with what a manifest says of it; `quantization` is never `auto`."""

    model: Any
    description: BaseDescription
    quantization: Quantization
    compute_dtype: str
    """`float32` or `bfloat16`."""
    device: Literal["cpu", "cuda"]


def load_base(
    description: BaseDescription,
    quantization: Literal["nf4", "none", "auto"],
    threads: int,
    compute_dtype: ComputeDtype = "auto",
) -> LoadedBase:
    """Load the base with every parameter frozen, in eval mode. Raises BaseModelError.

    `auto` holds it plain where that leaves half of the memory free, else in NF4. `threads` is how
    many torch may use in this process from now on. By `compute_dtype` it computes, and what is not
    in NF4 is held; `auto` is bfloat16 on a GPU and float32 on a CPU.
    """
    torch.set_num_threads(threads)
    disable_progress_bar()
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(compute_dtype, device)
    chosen = _choose(description, quantization, device, dtype)
    model = _load(description, chosen, device, dtype)
    _keep_weights_as_they_are(model)
    model.requires_grad_(False)
    model.eval()
    return LoadedBase(model, description, chosen, str(dtype).removeprefix("torch."), device)


def device_name() -> str:
    """Say what the base would compute on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores"


def free_memory() -> int:
    """Give the bytes that are free where the base would compute."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else available_memory()


def total_memory() -> int | None:
    """Give the bytes of the card where the base would compute, if that is one."""
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def keep_within(most: int) -> None:
    """Let this process take so many bytes of its card at the most."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / torch.cuda.mem_get_info()[1]))


def let_go() -> None:
    """Give the card what this process keeps of it for its next row."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _dtype(wanted: ComputeDtype, device: str) -> torch.dtype:
    if wanted == "auto":
        # CPUs that compute bf16 slowly are the rule.
        return torch.bfloat16 if device == "cuda" else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _choose(
    description: BaseDescription,
    quantization: Literal["nf4", "none", "auto"],
    device: str,
    dtype: torch.dtype,
) -> Quantization:
    if quantization != "auto":
        return quantization
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else None
    return "none" if plain_fits(description, dtype.itemsize, free) else "nf4"


def _load(
    description: BaseDescription, quantization: Quantization, device: str, dtype: torch.dtype
) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(
            description.path,
            dtype=dtype,
            quantization_config=_nf4(dtype) if quantization == "nf4" else None,
            device_map={"": device},
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as fault:
        message = f"the base model {description.name} cannot be loaded: {fault}"
        raise BaseModelError(message) from fault


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_weights_as_they_are(model: torch.nn.Module) -> None:
    # On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights in place at the first forward
    # pass without gradients. What is trained or merged afterwards is silently wrong, and two
    # threads that come first together crash.
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
