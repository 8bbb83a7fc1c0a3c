"""Starts vLLM's engine, which runs in processes of its own."""

import os

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from service.base.description import BaseDescription
from service.serving.vllm.options import Options, tuned_for

QUANTIZATION = {"none": None, "fp8": "fp8", "nf4": "bitsandbytes"}
"""Our names for how a base is held, and vLLM's."""
MAX_LOGPROBS = 20

ENVIRONMENT = {
    # Children begin as new processes and import our `__main__`, which ties them to this one.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # A prompt that fills the context is scored by asking for one token more, which is never read.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    # Nobody is told what runs here.
    "VLLM_NO_USAGE_STATS": "1",
}
"""What vLLM takes from nowhere else."""


def start(base: BaseDescription, options: Options) -> tuple[AsyncLLM, str]:
    """Load the base into vLLM; blocks for as long as that takes, and returns its dtype too.

    In the main thread: the kernel ties children to the thread that made them. Raises what vLLM
    does.
    """
    os.environ.update(ENVIRONMENT)
    on_cpu = current_platform.is_cpu()
    if not on_cpu and (tuned := tuned_for(base, current_platform.get_device_name())):
        os.environ.setdefault("VLLM_TUNED_CONFIG_FOLDER", str(tuned))
    given = arguments(base, options, on_cpu=on_cpu)
    # Decides how many tokens a step has at most: a server's of vLLM's own, not a library's few.
    llm = AsyncLLM.from_engine_args(given, usage_context=UsageContext.OPENAI_API_SERVER)
    return llm, options.dtype(on_cpu=on_cpu)


def arguments(base: BaseDescription, options: Options, *, on_cpu: bool) -> AsyncEngineArgs:
    """Say it in vLLM's words."""
    return AsyncEngineArgs(
        model=str(base.path),
        served_model_name=base.name,
        dtype=options.dtype(on_cpu=on_cpu),
        quantization=QUANTIZATION[options.quantization],
        max_model_len=base.context_length + 1,
        # One is our own: see Shelf.
        max_num_seqs=options.sequences + 1,
        gpu_memory_utilization=options.memory_share,
        kv_cache_memory_bytes=options.kv_bytes(base, on_cpu=on_cpu),
        enable_sleep_mode=options.sleeps,
        enforce_eager=options.eager or on_cpu,
        enable_prefix_caching=True,
        enable_lora=True,
        max_loras=options.slots,
        # As many as slots, so that vLLM never puts one away by itself.
        max_cpu_loras=options.slots,
        max_lora_rank=options.rank,
        # Not the vocabulary's head, which no adapter of ours targets: with it, scoring a prompt
        # on an adapter ends builds for CPUs (0.30), and every step does products with zeros.
        lora_target_modules=sorted(base.linear_modules),
        max_logprobs=MAX_LOGPROBS,
        # Defaults are ours, said in every request.
        generation_config="vllm",
        structured_outputs_config=StructuredOutputsConfig(backend="guidance"),
        disable_log_stats=True,
        enable_log_requests=False,
        trust_remote_code=False,
    )
