"""Through the API and back: stock PEFT loads what is exported, to equal logits."""

import io
import tarfile
from pathlib import Path

import httpx
import pytest

from service.settings import BUNDLED_BASE
from tests.archives import folder_of, tar
from tests.integration.importing import IMPORT, archive_form

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


async def test_stock_peft_loads_an_export_to_equal_logits(
    acme: httpx.AsyncClient, tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def base() -> object:
        return AutoModelForCausalLM.from_pretrained(BUNDLED_BASE, dtype=torch.float32)

    torch.manual_seed(0)
    config = LoraConfig(
        r=5,
        lora_alpha=7,
        target_modules=["q_proj", "up_proj"],
        use_rslora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base(), config).eval()
    model.save_pretrained(tmp_path / "made")
    tokens = torch.arange(100, 116).unsqueeze(0)
    with torch.no_grad():
        expected = model(tokens).logits

    brought = await acme.post(IMPORT, **archive_form(tar(folder_of(tmp_path / "made"))))
    assert brought.status_code == 201, brought.text
    revision = f"/v1/adapters/brought/revisions/{brought.json()['digest']}"
    exported = await acme.get(f"{revision}/export")
    with tarfile.open(fileobj=io.BytesIO(exported.content)) as archive:
        archive.extractall(tmp_path / "exported", filter="data")

    loaded = PeftModel.from_pretrained(base(), tmp_path / "exported").eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, expected)
        with loaded.disable_adapter():
            assert not torch.equal(loaded(tokens).logits, expected)
