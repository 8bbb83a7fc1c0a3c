"""PEFT's files are refused unless they are a plain LoRA adapter of this base."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from service.base.lora_files import linear_shapes, read_lora  # noqa: E402
from service.base.lora_rules import BadLora  # noqa: E402
from tests.fakes.tiny import tiny_model, write_adapter  # noqa: E402

pytestmark = pytest.mark.torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, int]]:
    return linear_shapes(tiny_model())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", seed=1, rank=4)


def change(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def rewrite(folder: Path, edit) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"rank_pattern": {"q_proj": 2}},
        {"peft_type": "LOHA"},
        {"r": 8},
        {"r": 0},
        {"r": None},
        {"lora_alpha": "many"},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["nothing"]},
        {"layers_to_transform": [0]},
    ],
)
def test_a_config_that_is_not_plain_lora_of_this_base_is_refused(shapes, folder, changes) -> None:
    change(folder, **changes)
    with pytest.raises(BadLora):
        read_lora(folder, shapes)


def poison(value: float):
    def edit(tensors: dict) -> None:
        next(iter(tensors.values()))[0, 0] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(poison(float("nan")), id="nan"),
        pytest.param(poison(float("inf")), id="infinite"),
        pytest.param(lambda t: t.pop(next(iter(t))), id="missing key"),
        pytest.param(lambda t: t.update(extra=torch.ones(2)), id="unexpected key"),
        pytest.param(lambda t: t.update({k: v.int() for k, v in t.items()}), id="integers"),
    ],
)
def test_weights_that_peft_would_take_silently_are_refused(shapes, folder, edit) -> None:
    rewrite(folder, edit)
    with pytest.raises(BadLora):
        read_lora(folder, shapes)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 64, None])
def test_files_that_cannot_be_read_are_refused(shapes, folder, name, content) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(BadLora):
        read_lora(folder, shapes)
