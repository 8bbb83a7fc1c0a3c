"""What is merged is what PEFT would merge, to the rounding of 16 bit."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from service.base.description import BaseDescription, describe  # noqa: E402
from service.base.loading import load_base  # noqa: E402
from service.base.merging import MergeError, merge  # noqa: E402
from service.settings import BUNDLED_BASE  # noqa: E402
from tests.fakes.tiny import ALL, tiny_base, tiny_model  # noqa: E402

WHOLE = 1 << 40


def a_base(folder: Path, dtype: torch.dtype = torch.bfloat16, **config: Any) -> BaseDescription:
    base = tiny_base(folder)
    tiny_model(**config).to(dtype).save_pretrained(folder)
    return describe(str(base.path), base.name)


def an_adapter(base: BaseDescription, folder: Path, **config: Any) -> Path:
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL), "init_lora_weights": False}
    model = get_peft_model(in_fp32(base.path), LoraConfig(**settings | config))
    model.save_pretrained(folder)
    return folder


def in_fp32(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def merged_by_peft(base: BaseDescription, adapter: Path) -> dict[str, Tensor]:
    model = PeftModel.from_pretrained(in_fp32(base.path), str(adapter)).merge_and_unload()
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def run(base: BaseDescription, adapter: Path, into: Path, most: int = WHOLE, **how: Any) -> Path:
    into.mkdir()
    merge(base, adapter, into, how.get("method", "plain"), most)
    return into


def weights_in(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_rounded(found: Tensor, exact: Tensor) -> None:
    """Equal but for the last bit of those few that lie between two numbers of 16 bit."""
    rounded = exact.to(found.dtype)
    assert (found == rounded).float().mean() > 0.999
    torch.testing.assert_close(found.float(), rounded.float(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize(
    ("base_config", "lora"),
    [
        ({}, {}),
        ({}, {"use_rslora": True}),
        ({}, {"target_modules": ["q_proj", "v_proj"]}),
        ({"tie_word_embeddings": True}, {}),
        ({"dtype": torch.float32}, {}),
        ({"dtype": torch.float16, "initializer_range": 0.02}, {}),
        ({"attention_bias": True}, {}),
    ],
)
def test_the_weights_are_peft_s(
    tmp_path: Path, base_config: dict[str, Any], lora: dict[str, Any]
) -> None:
    base = a_base(tmp_path / "base", **base_config)
    adapter = an_adapter(base, tmp_path / "adapter", **lora)

    found = weights_in(run(base, adapter, tmp_path / "merged"))

    expected = merged_by_peft(base, adapter)
    if base_config.get("tie_word_embeddings"):
        del expected["lm_head.weight"]
    assert found.keys() == expected.keys()
    dtype = torch.float16 if base_config.get("dtype") == torch.float16 else torch.bfloat16
    original = weights_in(base.path)
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        assert_rounded(tensor, expected[name])
        changed = any(f".{target}.weight" in name for target in lora.get("target_modules", ALL))
        assert torch.equal(tensor, original[name].to(dtype)) != changed, name


def test_what_could_not_be_served_is_not_merged(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    adapter = an_adapter(base, tmp_path / "adapter", rank_pattern={"v_proj": 5})
    with pytest.raises(MergeError, match="rank_pattern"):
        run(base, adapter, tmp_path / "merged")


def test_transformers_loads_it_and_it_says_what_peft_says(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = an_adapter(base, tmp_path / "adapter")

    folder = run(base, adapter, tmp_path / "merged", most=100_000)

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = PeftModel.from_pretrained(in_fp32(base.path), str(adapter)).merge_and_unload()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        found, wanted = model.float()(ids).logits, expected(ids).logits
    off = (found - wanted).abs().max() / wanted.abs().max()
    assert off < 0.05


def test_many_shards_hold_what_one_does_under_hugging_face_s_names(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    adapter = an_adapter(base, tmp_path / "adapter")

    whole = run(base, adapter, tmp_path / "whole")
    cut = run(base, adapter, tmp_path / "cut", most=100_000)

    names = sorted(path.name for path in cut.glob("*.safetensors"))
    assert len(names) > 3
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    index = json.loads((cut / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == names
    assert index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for t in weights_in(cut).values()
    )
    one, many = weights_in(whole), weights_in(cut)
    assert one.keys() == many.keys() == index["weight_map"].keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    for name in names:
        held = load_file(cut / name)
        assert len(held) == 1 or (cut / name).stat().st_size < 101_000 + 2_000


def test_the_same_is_merged_into_the_same_bytes(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    adapter = an_adapter(base, tmp_path / "adapter")

    one, other = (run(base, adapter, tmp_path / name, most=100_000) for name in "ab")

    assert {p.name: p.read_bytes() for p in one.iterdir()} == {
        p.name: p.read_bytes() for p in other.iterdir()
    }


def test_tokenizer_template_and_configs_come_along(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base", dtype=torch.float32)
    (base.path / "README.md").write_text("not for others")
    adapter = an_adapter(base, tmp_path / "adapter")

    folder = run(base, adapter, tmp_path / "merged")

    copied = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for name in (*copied, "generation_config.json"):
        assert (folder / name).read_bytes() == (base.path / name).read_bytes()
    assert not (folder / "README.md").exists()
    assert base.config["dtype"] == "float32"
    assert json.loads((folder / "config.json").read_text()) == base.config | {"dtype": "bfloat16"}


def test_nf4_merges_into_the_weights_that_qlora_s_training_sees(tmp_path: Path) -> None:
    base = describe(str(BUNDLED_BASE))
    lora = {"target_modules": ["q_proj", "down_proj"]}
    adapter = an_adapter(base, tmp_path / "adapter", **lora)

    found = weights_in(run(base, adapter, tmp_path / "nf4", method="nf4"))
    plain = weights_in(run(base, adapter, tmp_path / "plain"))

    model = load_base(base, "nf4", 1, "float32").model
    merged = PeftModel.from_pretrained(model, str(adapter))
    for name, tensor in found.items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            assert torch.equal(tensor, plain[name])
            continue
        layer = merged.get_submodule(f"base_model.model.{module}")
        held = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        eye = torch.eye(held.in_features)
        exact = held(eye).T
        if hasattr(layer, "get_delta_weight"):
            exact = exact + layer.get_delta_weight("default")
        assert_rounded(tensor, exact)
        assert not torch.equal(tensor, plain[name])


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    adapter = an_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"

    save_file(weights | {name: torch.zeros(65, 4)}, adapter / "adapter_model.safetensors")
    with pytest.raises(MergeError, match=r"layers\.0.*shape \[64, 64\] in the base and \[65, 64\]"):
        run(base, adapter, tmp_path / "a")

    elsewhere = {key.replace("layers.0", "layers.9"): tensor for key, tensor in weights.items()}
    save_file(elsewhere, adapter / "adapter_model.safetensors")
    with pytest.raises(MergeError, match=r"hold no model\.layers\.9"):
        run(base, adapter, tmp_path / "b")


def test_a_weight_that_16_bit_cannot_hold_is_refused(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base", dtype=torch.float16, initializer_range=0.02)
    adapter = an_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    weights = load_file(adapter / "adapter_model.safetensors")
    huge = {name: tensor * 1000 for name, tensor in weights.items()}
    save_file(huge, adapter / "adapter_model.safetensors")

    with pytest.raises(MergeError, match=r"q_proj\.weight is not finite in F16") as fault:
        run(base, adapter, tmp_path / "merged")
    assert fault.value.code == "merge_not_finite"


def test_a_base_that_is_quantised_on_disk_is_refused(tmp_path: Path) -> None:
    base = a_base(tmp_path / "base")
    adapter = an_adapter(base, tmp_path / "adapter")
    config = base.config | {"quantization_config": {"quant_method": "gptq"}}
    (base.path / "config.json").write_text(json.dumps(config))

    with pytest.raises(MergeError, match="quantised"):
        run(describe(str(base.path)), adapter, tmp_path / "merged")
