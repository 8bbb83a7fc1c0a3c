"""PEFT's sharp edges, each one covered."""

import json
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from service.base.decoding import DecodingBatch  # noqa: E402
from service.base.lora_files import BadLora, read_lora  # noqa: E402
from service.base.mixed_lora import MixedLora  # noqa: E402
from tests.fakes.tiny import tiny_model, write_adapter  # noqa: E402
from tests.unit.base.test_decoding import by_peft, row, run  # noqa: E402

pytestmark = pytest.mark.torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def lora() -> MixedLora:
    return MixedLora(tiny_model())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", seed=1, rank=4)


def answer(lora: MixedLora, adapter: str | None) -> list[int]:
    return run(DecodingBatch(lora.forward, lora.device), {0: [row(1, adapter)]}, {1: 6})[1]


def hooks(lora: MixedLora) -> int:
    return sum(len(module._forward_pre_hooks) for module in lora._model.modules())


def test_a_forward_pass_that_raises_leaves_no_hooks(lora, folder) -> None:
    lora.add("one", read_lora(folder, lora.shapes))
    base = answer(lora, None)
    layer = lora._model.base_model.model.model.layers[1]
    failing = layer.register_forward_hook(lambda *_: 1 / 0)
    batch = DecodingBatch(lora.forward, lora.device)
    batch.add([row(1, "one")])
    assert isinstance(batch.round().faults[0], ZeroDivisionError)
    failing.remove()
    assert hooks(lora) == 0
    assert answer(lora, None) == base


def test_an_adapter_follows_the_base_into_bf16(folder) -> None:
    lora = MixedLora(tiny_model().bfloat16())
    lora.add("one", read_lora(folder, lora.shapes))
    assert answer(lora, "one") != answer(lora, None)


def test_peft_itself_still_leaks_its_hooks(lora, folder) -> None:
    """The reason for `clear_hooks`: when this fails, it is no longer needed."""
    lora.add("one", read_lora(folder, lora.shapes))
    failing = lora._model.base_model.model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lora._model(input_ids=torch.tensor([[1]]), adapter_names=["one"])
    failing.remove()
    leaked = hooks(lora)
    assert leaked > 0
    assert lora.clear_hooks() == leaked
    assert hooks(lora) == 0


def test_the_last_adapter_can_be_removed_and_come_back(lora, folder) -> None:
    base = answer(lora, None)
    files = read_lora(folder, lora.shapes)
    lora.add("one", files)
    own = answer(lora, "one")
    lora.remove("one")
    assert lora.adapters == set()
    assert answer(lora, None) == base != own
    lora.add("one", files)
    assert answer(lora, "one") == own


def test_an_adapter_that_is_gone_is_refused_and_not_answered_by_the_base(lora, folder) -> None:
    lora.add("one", read_lora(folder, lora.shapes))
    lora.remove("one")
    batch = DecodingBatch(lora.forward, lora.device)
    batch.add([row(1, "one")])
    result = batch.round()
    assert (result.lost, result.picks) == ([1], [])


def test_adapters_come_and_go_beside_a_running_row(lora, tmp_path) -> None:
    folders = [write_adapter(tmp_path / str(n), seed=n, rank=2 + n) for n in range(3)]
    lora.add("zero", read_lora(folders[0], lora.shapes))
    batch = DecodingBatch(lora.forward, lora.device)
    batch.add([row(1, "zero")])
    tokens = []
    for step in range(12):
        tokens += [picked.token for picked in batch.round().picks]
        if step % 4 == 0:
            lora.add(f"n{step}", read_lora(folders[1 + step // 4 % 2], lora.shapes))
        if step % 4 == 2:
            lora.remove(f"n{step - 2}")
    assert tokens == by_peft(lora, "zero", [5, 6, 7], 12)


def test_a_name_is_never_given_to_other_content(lora, folder) -> None:
    files = read_lora(folder, lora.shapes)
    lora.add("one", files)
    for name in ("one", "__base__", "a.b", ""):
        with pytest.raises(ValueError, match="cannot be used"):
            lora.add(name, files)


def test_what_peft_refuses_leaves_no_name_behind(lora, folder) -> None:
    base = answer(lora, None)
    files = read_lora(folder, lora.shapes)
    key = next(iter(files.tensors))
    files.tensors[key] = torch.zeros(3, 3)
    with pytest.raises(BadLora):
        lora.add("one", files)
    assert lora.adapters == set()
    assert answer(lora, None) == base
    lora.add("one", read_lora(folder, lora.shapes))


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
def test_a_config_that_is_not_plain_lora_of_this_base_is_refused(lora, folder, changes) -> None:
    change(folder, **changes)
    with pytest.raises(BadLora):
        read_lora(folder, lora.shapes)


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
def test_weights_that_peft_would_take_silently_are_refused(lora, folder, edit) -> None:
    rewrite(folder, edit)
    with pytest.raises(BadLora):
        read_lora(folder, lora.shapes)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 64, None])
def test_files_that_cannot_be_read_are_refused(lora, folder, name, content) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(BadLora):
        read_lora(folder, lora.shapes)


def test_models_without_plain_attention_caches_are_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    small = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match="attention"):
        MixedLora(MambaForCausalLM(small))


def test_the_thread_that_runs_the_batch_is_the_only_one_in_the_model(lora, folder) -> None:
    """PEFT's adapter names live in hooks on shared layers: two threads answer for one another."""
    seen = set()
    lora._model.register_forward_pre_hook(lambda *_: seen.add(threading.get_ident()))
    answer(lora, None)
    assert seen == {threading.get_ident()}
