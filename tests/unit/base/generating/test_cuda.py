"""On a GPU, in bf16: captured and eager steps, paged kernels and all, against float64 on a CPU."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from service.base.generating.blocks import root  # noqa: E402
from service.base.generating.model import GenerationModel  # noqa: E402
from service.base.generating.schedule import Schedule  # noqa: E402
from service.base.lora_files import LoraFiles  # noqa: E402
from service.base.segmented.base import SegmentedBase  # noqa: E402
from tests.unit.base.generating.running import prompts  # noqa: E402
from tests.unit.base.segmented.models import ALL, apart, make  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

NEAR = 2e-2
SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vocab_size": 1000}
STEPS = 24


def adapter(base: SegmentedBase, seed: int, rank: int) -> LoraFiles:
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (features_in, features_out) in base.shapes.items():
        if name.endswith(ALL):
            key = f"base_model.model.{name}"
            a, b = (rank, features_in), (features_out, rank)
            tensors[f"{key}.lora_A.weight"] = 0.05 * torch.randn(a, generator=random)
            tensors[f"{key}.lora_B.weight"] = 0.05 * torch.randn(b, generator=random)
    return LoraFiles(rank, 2.0 * rank, False, list(ALL), tensors)


def said(device: str, dtype: Any, *, static: bool | None = None, window: int | None) -> Any:
    """Give the logits of rows that are told what to say, prompts in chunks and then by tokens."""
    built = make("mistral", torch.float64, **SIZES, sliding_window=window).to(device, dtype)
    base = SegmentedBase(built)
    model = GenerationModel(base, most=12, most_adapters=5, tokens=2048, context=128, static=static)
    for seed, rank in enumerate((16, 3, 8, 40)):
        model.adapters.add(f"a{seed}", adapter(base, seed, rank))
    schedule = Schedule(model.blocks, model.most, chunk_tokens=40)
    names = [None, "a0", "a1", None, "a2", "a3", "a1", "a0", "a0"]
    given = prompts(len(names), most=60, vocabulary=1000)
    told = prompts(len(names), seed=1, most=STEPS + 1, vocabulary=1000)
    for key, (name, prompt) in enumerate(zip(names, given, strict=True)):
        schedule.add(key, root("acme", name), prompt)
    logits: dict[int, list[Any]] = {key: [] for key in range(len(names))}
    with torch.inference_mode():
        while schedule.busy:
            step = schedule.next()
            model.clear(step.fresh)
            rows = iter(model.forward([names[c.key] for c in step.chunks], step.chunks).cpu())
            for chunk in step.chunks:
                token = None
                if chunk.last:
                    logits[chunk.key].append(next(rows).clone())
                    at = len(logits[chunk.key]) - 1
                    token = told[chunk.key][at % len(told[chunk.key])]
                schedule.advance(chunk, token)
            ended = [key for key, made in logits.items() if len(made) >= 4 + 2 * key]
            schedule.drop(ended)
            model.drop(ended)
    return model, torch.cat([torch.stack(made) for made in logits.values()])


@pytest.mark.parametrize("window", [None, 16])
def test_captured_and_eager_steps_are_as_near_to_float64_as_bf16_on_the_cpu(window) -> None:
    _, exact = said("cpu", torch.float64, window=window)
    _, plain = said("cpu", torch.bfloat16, window=window)
    usual = distances(plain, exact)
    assert max(usual.values()) < 0.2, "else this would prove nothing"
    for static in (False, True):
        _, logits = said("cuda", torch.bfloat16, static=static, window=window)
        assert torch.isfinite(logits).all()
        for name, distance in distances(logits, exact).items():
            assert distance < 1.5 * usual[name] + NEAR / 4, name


def distances(found: Any, exact: Any) -> dict[str, float]:
    """Give that of all rows together, and the greatest: a row that reads another's past is far."""
    rows = [apart(mine, other) for mine, other in zip(found, exact, strict=True)]
    return {"all": apart(found, exact), "a row": max(rows)}


def test_every_step_without_prompts_is_captured() -> None:
    model, _ = said("cuda", torch.bfloat16, window=None)
    assert model._graphs is not None
    steps = model._graphs._steps
    assert {rows for rows, _ in steps} <= {1, 2, 4, 8, 12}
    assert steps
    assert all(step._graph is not None for step in steps.values())
