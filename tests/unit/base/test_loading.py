"""The loaded base: as asked, frozen, and with weights that no forward pass changes."""

import shutil
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from service.base.description import BaseDescription, BaseModelError, describe
from service.base.memory import available_memory, parameters, plain_fits
from service.settings import BUNDLED_BASE

BASE = describe(str(BUNDLED_BASE))
TOKENS = [[1, 17, 42, 99, 7, 256, 8, 12]]


def load(
    quantization: Literal["nf4", "none", "auto"],
    base: BaseDescription = BASE,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Any:
    """Load afresh: some hazards show at the first forward pass only."""
    from service.base.loading import load_base

    return load_base(base, quantization, 1, dtype)


def four_bit(model: Any) -> list[Any]:
    import bitsandbytes

    return [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]


def logits(model: Any) -> Any:
    """One forward pass as serving does it."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS)).logits


def input_gradient(model: Any) -> Any:
    """The gradient that arrives below the first layer, through all 4-bit ones."""
    import torch

    embedded = model.get_input_embeddings()(torch.tensor(TOKENS)).detach().requires_grad_(True)
    model(inputs_embeds=embedded, labels=torch.tensor(TOKENS)).loss.backward()
    return embedded.grad


@pytest.mark.torch
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_the_base_is_frozen_and_ready_to_answer(quantization: Literal["nf4", "none"]) -> None:
    loaded = load(quantization)
    assert (loaded.quantization, loaded.description) == (quantization, BASE)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == "sdpa"


@pytest.mark.torch
def test_nf4_is_double_quantised_in_every_projection() -> None:
    model = load("nf4").model
    held = four_bit(model)
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in held}
    assert names == BASE.linear_modules
    assert all(m.weight.quant_state.quant_type == "nf4" for m in held)
    assert all(m.weight.quant_state.nested for m in held)


@pytest.mark.torch
@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_computes_in_what_it_is_told_to(
    quantization: Literal["nf4", "none"], dtype: Literal["float32", "bfloat16"]
) -> None:
    import torch

    loaded = load(quantization, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert loaded.compute_dtype == dtype
    assert logits(loaded.model.to(loaded.device)).dtype == wanted
    assert {module.compute_dtype for module in four_bit(loaded.model)} <= {wanted}
    plain = [p for p in loaded.model.parameters() if p.is_floating_point()]
    assert {parameter.dtype for parameter in plain} == {wanted}
    exact = logits(load(quantization, dtype="float32").model).softmax(-1)
    assert torch.allclose(logits(loaded.model).float().softmax(-1), exact, atol=0.05)


@pytest.mark.torch
def test_plain_weights_are_the_files_own() -> None:
    import torch
    from safetensors.torch import load_file

    loaded = load("none")
    assert four_bit(loaded.model) == []
    wanted = {"cpu": ("float32", torch.float32), "cuda": ("bfloat16", torch.bfloat16)}
    name, dtype = wanted[loaded.device]
    assert loaded.compute_dtype == name
    stored = load_file(BASE.path / "model.safetensors")
    state = loaded.model.state_dict()
    for key, tensor in stored.items():
        assert state[key].dtype == dtype
        assert torch.equal(state[key].cpu(), tensor.to(dtype)), key


@pytest.mark.torch
def test_no_forward_pass_may_repack_4bit_weights() -> None:
    held = four_bit(load("nf4").model)
    assert held
    assert not any(module.support_avx512bf16_for_cpu for module in held)


@pytest.mark.torch
def test_gradients_are_the_same_before_and_after_an_evaluation() -> None:
    import torch

    model = load("nf4").model
    before = input_gradient(model)
    weights = [module.weight.detach().clone() for module in four_bit(model)]
    logits(model)
    assert torch.equal(input_gradient(model), before)
    kept = zip(four_bit(model), weights, strict=True)
    assert all(torch.equal(module.weight, weight) for module, weight in kept)


@pytest.mark.torch
def test_without_our_flag_this_cpu_would_spoil_the_gradients() -> None:
    import torch
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU does not repack")
    model = load("nf4").model
    for module in four_bit(model):
        module.support_avx512bf16_for_cpu = True
    before = input_gradient(model)
    logits(model)
    with pytest.warns(UserWarning, match="gemv_4bit"):
        after = input_gradient(model)
    assert not torch.allclose(after, before, rtol=0.5)


@pytest.mark.torch
def test_an_adapter_merges_as_well_after_an_evaluation_as_before() -> None:
    import torch

    cold = merged()
    used = merged(evaluated=True)
    assert torch.equal(used, cold)


def merged(*, evaluated: bool = False) -> Any:
    """Merge a random adapter into the 4-bit base, and give the result's logits."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = sorted(BASE.linear_modules)
    config = LoraConfig(r=8, target_modules=targets, init_lora_weights=False)
    model = get_peft_model(load("nf4").model, config).eval()
    if evaluated:
        logits(model)
    with pytest.warns(UserWarning, match="rounding errors"):
        return logits(model.merge_and_unload())


@pytest.mark.torch
def test_the_first_forward_pass_may_come_from_two_threads_at_once() -> None:
    import torch

    model = load("nf4").model
    start = threading.Barrier(2)
    found: list[Any] = []

    def answer() -> None:
        start.wait()
        found.append(logits(model))

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert torch.equal(*found)


@pytest.mark.torch
def test_auto_chooses_plain_weights_for_a_small_base() -> None:
    assert load("auto").quantization == "none"


@pytest.mark.torch
def test_code_in_the_bases_folder_is_never_run(tmp_path: Path) -> None:
    folder = shutil.copytree(BASE.path, tmp_path / "base")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    for model_type in ("llama", "evil"):
        changed = config | {"model_type": model_type}
        (folder / "config.json").write_bytes(msgspec.json.encode(changed))
        try:
            load("none", BaseDescription("evil", folder))
        except BaseModelError:
            assert model_type == "evil"
    assert not marker.exists()


@pytest.mark.torch
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100])
def test_a_base_without_whole_weights_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | None
) -> None:
    folder = shutil.copytree(BASE.path, tmp_path / "base")
    if content is None:
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseModelError, match="broken-base"):
        load("none", BaseDescription("broken-base", folder))


def test_parameters_are_counted_off_the_headers() -> None:
    # The card says so; the tied vocabulary head is stored once.
    assert parameters(BASE.path) == 5_180_672


@pytest.mark.parametrize(("free", "fits"), [(2, False), (4, True), (8, True)])
def test_plain_weights_fit_into_half_of_what_is_free(free: int, fits: bool) -> None:
    assert plain_fits(BASE, 2, free * parameters(BASE.path)) is fits


def test_the_machine_has_some_memory() -> None:
    assert available_memory() > 1 << 20
