"""What stock PEFT writes is published; what is published, stock PEFT loads to the same logits."""

from pathlib import Path
from typing import Any

import pytest

from adapters_store import FilesystemAdapterStore
from tests.builders import an_origin

pytestmark = pytest.mark.torch


def _base() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=64))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_adapter_goes_through_the_store_unchanged(tmp_path: Path, dtype: str) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules={"q_proj", "v_proj", "up_proj"},
        rank_pattern={"up_proj": 8, "layers.1.self_attn.q_proj": 2},
        alpha_pattern={"v_proj": 32},
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(_base(), config).to(getattr(torch, dtype)).eval()
    model.save_pretrained(tmp_path / "staged")
    tokens = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        trained = model(tokens).logits

    published = FilesystemAdapterStore(tmp_path / "store").publish(
        "acme", "desk", tmp_path / "staged", an_origin()
    )
    base = _base().to(getattr(torch, dtype))
    loaded = PeftModel.from_pretrained(base, published.path, autocast_adapter_dtype=False).eval()

    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, trained)
        with loaded.disable_adapter():
            assert not torch.equal(loaded(tokens).logits, trained)
