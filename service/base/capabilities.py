"""What torch can do on this machine, each thing tried once, in a process of its own.

    python -m service.base.capabilities torch transformers    # these imported; prints JSON
    python -m service.base.capabilities --no-kernels torch    # none tried: what GPUs there are

A library that takes its process along takes nobody else, and what is allocated goes with it.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import torch

PATIENCE_SECONDS = 300
"""For a child; the imports of a cold machine take long."""
ROWS, WIDTH = 64, 128
NF4_ERROR = 0.5
"""Most that a weight between -1 and 1 may be off, beside its block's largest: its coarsest step is
a third of that."""


class Gpu(msgspec.Struct, frozen=True):
    """One that torch sees; memory in bytes."""

    name: str
    total: int
    free: int
    capability: tuple[int, int]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What there is, and what it came to."""

    imports: dict[str, str | None]
    """By module, why it cannot be imported; None: it can."""
    cuda: str | None = None
    """The version that torch was built with."""
    gpus: list[Gpu] = []
    kernels: dict[str, str | None] = {}
    """By name, what came of those tried in place of the right numbers; None: those did."""


def capabilities(
    modules: Sequence[str] = ("torch",), *, kernels: bool = True
) -> Capabilities | str:
    """Have a child examine; give what it said, or why it said nothing."""
    flag = "--kernels" if kernels else "--no-kernels"
    command = [sys.executable, "-m", __name__, flag, *modules]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=False)  # noqa: S603 - our own program
    except subprocess.TimeoutExpired:
        return f"it did not end within {PATIENCE_SECONDS} seconds"
    try:
        return msgspec.json.decode(done.stdout, type=Capabilities)
    except msgspec.MsgspecError:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"it ended with code {done.returncode}: {said[-1] if said else 'without a word'}"


def examine(modules: Sequence[str], *, kernels: bool = True) -> Capabilities:
    """Import these and, if torch is there, look for GPUs and try the kernels."""
    imports = {name: _fault(partial(import_module, name)) for name in modules}
    if imports.get("torch", "not asked for") is not None:
        return Capabilities(imports=imports)
    import torch

    found = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    attempts = {"4-bit weights": _nf4, "products": _products, "attention": _attention}
    return Capabilities(
        imports=imports,
        cuda=torch.version.cuda,
        gpus=[_gpu(index) for index in found],
        kernels={name: _fault(each) for name, each in attempts.items()} if kernels else {},
    )


def _gpu(index: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    capability = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), total, free, capability)


def _fault(attempt: Callable[[], object]) -> str | None:
    """Give the last line of what was raised."""
    try:
        attempt()
    except Exception as fault:  # noqa: BLE001  whatever it is, it is what is asked for
        told = str(fault).strip().splitlines()
        return f"{type(fault).__name__}: {told[-1] if told else ''}"
    return None


def _nf4() -> None:
    """Quantise weights and back, as QLoRA holds them."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.rand(WIDTH, WIDTH, device=_device()) * 2 - 1
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    _close(dequantize_4bit(packed, state), weight, NF4_ERROR)


def _products() -> None:
    """Send the rows of two adapters through their own matrices: on a GPU Triton compiles that."""
    import torch

    from service.base.segmented.products import choose

    device = _device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x, w = torch.randn(ROWS, WIDTH, device=device), torch.randn(2, WIDTH, 16, device=device)
    sizes = [ROWS // 4, ROWS - ROWS // 4]
    made = choose(sizes, [0, 1], device).times(x.to(dtype), w)
    wanted = torch.cat([part @ one for part, one in zip(x.split(sizes), w, strict=True)])
    _close(made.float(), wanted, 1.0 if device.type == "cuda" else 1e-3)


def _attention() -> None:
    """Attend within two examples that lie in one row, as a plain softmax does."""
    import torch
    from torch.nn import functional

    from service.base.segmented.attention import Packed

    device = _device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lengths = (ROWS // 4, ROWS - ROWS // 4)
    q, k, v = (torch.randn(ROWS, 2, WIDTH, device=device, dtype=dtype) for _ in range(3))
    made = Packed(lengths, device)(0, q, k, v, scaling=None, window=None)
    queries, keys, values = (
        each.float().transpose(0, 1).split(lengths, dim=1) for each in (q, k, v)
    )
    wanted = [
        functional.scaled_dot_product_attention(*part, is_causal=True)
        for part in zip(queries, keys, values, strict=True)
    ]
    _close(made.float(), torch.cat(wanted, dim=1).transpose(0, 1), 0.1)


def _device() -> "torch.device":
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _close(made: "torch.Tensor", wanted: "torch.Tensor", most: float) -> None:
    if not (off := float((made - wanted).abs().max())) <= most:
        raise ArithmeticError(f"off by {off:.3g}")


def main() -> None:
    """Print what these modules and the kernels came to; what libraries print goes to stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernels", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("modules", nargs="*")
    given = parser.parse_args()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        out.write(msgspec.json.encode(examine(given.modules, kernels=given.kernels)))


if __name__ == "__main__":
    main()
