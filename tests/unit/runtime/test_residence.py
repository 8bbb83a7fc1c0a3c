"""A runtime that only trains has an engine of its own, which examines and answers nobody."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from adapters_store import FilesystemAdapterStore, RevisionRef  # noqa: E402
from service.base.description import describe  # noqa: E402
from service.base.probes import HeldOut, Measured, Probe, Probes  # noqa: E402
from service.base.wanted import EXAMINING_TOKENS  # noqa: E402
from service.errors import EngineUnavailable  # noqa: E402
from service.rendering.renderer import Renderer  # noqa: E402
from service.runtime.gatekeeping import Gatekeeper  # noqa: E402
from service.runtime.residence import move_in  # noqa: E402
from service.serving.gate import Rules  # noqa: E402
from service.settings import BUNDLED_BASE, Settings  # noqa: E402
from service.training.probing import EXAMPLE_TOKENS  # noqa: E402
from tests.fakes.tiny import origin_of  # noqa: E402

pytestmark = pytest.mark.torch


def publish(store: FilesystemAdapterStore, *, random: bool) -> RevisionRef:
    """Publish an adapter that changes every answer, or one that was never trained."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(str(BUNDLED_BASE), dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=not random)
    with store.stage() as staged:
        get_peft_model(model, config).save_pretrained(staged)
        origin = origin_of(describe(str(BUNDLED_BASE)))
        return store.publish("acme", "support", staged, origin).ref


async def test_a_runtime_that_only_trains_examines_in_its_own_engine(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, torch_threads=1)
    store = FilesystemAdapterStore(tmp_path / "adapters")
    renderer = Renderer(describe(str(BUNDLED_BASE)))
    residence = move_in(settings, renderer, trains=True, generates=False)
    residence.conductor.start(residence.generation, residence.training)
    keeper = Gatekeeper(residence.engine, Rules(), delays=[0.0])
    # As long as they come: the small cache has room for them.
    long = [Measured(list(range(1, EXAMPLE_TOKENS + 1)), [5, 6])] * 12
    probes = Probes([Probe([5, 6, 7, 8, 9])], HeldOut(long))
    try:
        assert not residence.answers
        assert (await residence.engine.status()).kv_blocks * 16 == EXAMINING_TOKENS
        found = await keeper.examine(publish(store, random=True), probes)
        outcomes = {check.name: check.outcome for check in found.checks}
        assert outcomes["loads"] == outcomes["finite"] == outcomes["changes_base"] == "passed"
        blank = await keeper.examine(publish(store, random=False), probes)
        assert "changes_base" in blank.reason
    finally:
        residence.move_out()
    with pytest.raises(EngineUnavailable):
        await keeper.examine(publish(store, random=True), probes)
