"""Start vLLM as a runtime would, on any base, and have it checked with as many adapters as asked.

    python -m tools.check_vllm --adapters 64                            # the bundled base
    python -m tools.check_vllm --base /tmp/llama-8b --adapters 64 --quantization nf4

Says how long what took, as one line of JSON, the last; exits with 1 where vLLM mixes adapters up.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

import msgspec

from service.base.description import describe
from service.rendering.renderer import Renderer
from service.serving.self_check import MixedUp
from service.serving.vllm.options import Options
from service.settings import BUNDLED_BASE


def main() -> int:
    """Run it; 0 when each was answered by its own adapter, and the base by none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=BUNDLED_BASE)
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--quantization", choices=["none", "fp8", "nf4"], default="none")
    parser.add_argument("--memory-share", type=float, default=0.6)
    parser.add_argument("--kv-tokens", type=int, default=0, help="0: what the share leaves")
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    options = Options(
        max_resident=given.adapters,
        max_batch=given.sequences,
        max_lora_rank=given.rank,
        quantization=given.quantization,
        memory_share=given.memory_share,
        kv_tokens=given.kv_tokens,
        eager=given.eager,
    )
    try:
        told = asyncio.run(_checked(given.base, options))
    except MixedUp as fault:
        print(f"refused: {fault}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(told).decode(), flush=True)
    return 0


async def _checked(base: Path, options: Options) -> dict[str, object]:
    import vllm

    from service.serving.vllm.checked import checked
    from service.serving.vllm.start import start

    renderer = Renderer(describe(str(base)))
    began = time.monotonic()
    llm, dtype = start(renderer.base, options)
    started = time.monotonic()
    try:
        await checked(llm, renderer, options, dtype)
        ended = time.monotonic()
    finally:
        llm.shutdown()
    # What vLLM logs at its end comes before what is told here.
    return {
        "vllm": vllm.__version__,
        "adapters": options.max_resident,
        "quantization": options.quantization,
        "dtype": dtype,
        "start_seconds": round(started - began, 1),
        "check_seconds": round(ended - started, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
