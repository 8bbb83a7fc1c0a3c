"""Sixteen rows of mixed adapters on several architectures say what PEFT's `generate` says."""

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402

from service.base.description import describe  # noqa: E402
from service.base.generating.decoding import DecodingBatch  # noqa: E402
from service.base.generating.model import measure  # noqa: E402
from service.base.loading import load_base  # noqa: E402
from service.base.segmented.base import SegmentedBase  # noqa: E402
from service.settings import BUNDLED_BASE  # noqa: E402
from tests.unit.base.generating.running import Bench, prompts, row, run  # noqa: E402
from tests.unit.base.segmented.models import ALL, ATTENTION, CONFIGS, VOCABULARY, make  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES: dict[str, dict[str, Any]] = {
    "attention": {"r": 8, "lora_alpha": 32, "target_modules": list(ATTENTION)},
    "stabilised": {"r": 5, "lora_alpha": 7, "target_modules": list(ALL), "use_rslora": True},
    "thin": {"r": 1, "lora_alpha": 1.5, "target_modules": ["v_proj", "up_proj"]},
    "wide": {"r": 20, "lora_alpha": 20, "target_modules": ["down_proj"]},
}


def bench_on(make_model: Any, folder: Path, **limits: Any) -> Bench:
    folders = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        torch.manual_seed(seed)
        config = LoraConfig(**shape, init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(make_model(), config).save_pretrained(folder / name)
        folders[name] = folder / name
    return Bench(make_model, folders, **limits)


def check(bench: Bench, vocabulary: int, seed: int, **limits: Any) -> None:
    chance = random.Random(seed)
    adapters = [None, *SHAPES, *SHAPES, *SHAPES, None, None, None]
    given = prompts(16, seed, most=40, vocabulary=vocabulary)
    rows = [row(key, adapters[key], prompt) for key, prompt in enumerate(given)]
    lengths = {key: chance.randrange(5, 30) for key in range(16)}
    arrivals: dict[int, list[Any]] = {}
    for each in rows:
        arrivals.setdefault(chance.randrange(12), []).append(each)
    made = run(DecodingBatch(bench.model(**limits), 24), arrivals, lengths)
    for each in rows:
        assert made[each.key] == bench.expected(each, lengths[each.key]), each.adapter


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("architecture", [*CONFIGS, "windowed"])
def test_tiny_random_models(architecture: str, static: bool, tmp_path: Path) -> None:
    windowed = architecture == "windowed"

    def model() -> Any:
        name = "mistral" if windowed else architecture
        return make(name, torch.float32, sliding_window=9 if windowed else None)

    bench = bench_on(model, tmp_path, context=128)
    check(bench, VOCABULARY, seed=5, static=static, tokens=400, size=4)


def test_the_bundled_base(tmp_path: Path) -> None:
    base = describe(str(BUNDLED_BASE), "bundled")
    bench = bench_on(lambda: _without_end(load_base(base, "none", 1).model), tmp_path)
    check(bench, 4096, seed=6)


def test_a_model_whose_layers_keep_something_else_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    small = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match="attention"):
        measure(_Unfit(MambaForCausalLM(small)))  # type: ignore[arg-type]


def test_what_is_kept_of_a_token_is_seen_and_not_guessed() -> None:
    shape = measure(SegmentedBase(make("qwen3", torch.float32)))
    assert (shape.layers, shape.heads, shape.width) == (2, 2, 8)
    assert shape.bytes_each == 2 * 2 * 2 * 8 * 4


class _Unfit:
    def __init__(self, model: Any) -> None:
        self.model = model


def _without_end(model: Any) -> Any:
    model.generation_config.eos_token_id = None
    return model
