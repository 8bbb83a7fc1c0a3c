"""The twin: the base's memory, and nothing else of the base."""

import gc
import weakref
from typing import Any, Literal

import pytest

from tests.unit.training.real import TOKENS, loaded_base, traces

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")

Held = Literal["nf4", "none"]


@pytest.fixture(params=["nf4", "none"])
def base(request: pytest.FixtureRequest) -> Any:
    return loaded_base(request.param).model


def twin(*given: Any) -> Any:
    from service.training.twin import twin

    return twin(*given)


def answer(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.tensor(TOKENS)).logits


def places(tensors: Any) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def test_it_is_the_bases_memory_and_answers_alike(base: Any) -> None:
    made = twin(base)
    assert places(made.parameters()) == places(base.parameters())
    assert places(made.buffers()) == places(base.buffers())
    assert torch.equal(answer(made), answer(base))
    assert not {id(module) for module in made.modules()} & {id(module) for module in base.modules()}


def test_what_is_tied_stays_tied(base: Any) -> None:
    from tests.fakes.tiny import tiny_model

    tied = tiny_model(tie_word_embeddings=True)
    made = twin(tied)
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert made.lm_head.weight.data_ptr() == tied.lm_head.weight.data_ptr()


@pytest.mark.parametrize("recompute", [False, True])
def test_it_is_plain_where_the_base_is_segmented(base: Any, recompute: bool) -> None:
    from service.base.segmented.base import SegmentedBase

    before = answer(base)
    resident = SegmentedBase(base, recompute=recompute)
    try:
        made = twin(base)
        assert torch.equal(answer(made), before)
        kinds = {type(module).__name__ for module in made.modules()}
        assert "SegmentedLoraLinear" not in kinds
        assert not made.is_activation_checkpointing
        assert not any(module.training for module in made.modules())
        assert places(made.parameters()) == places(base.parameters())
    finally:
        resident.remove()
    assert torch.equal(answer(made), answer(base))


def test_it_has_none_of_the_bases_hooks(base: Any) -> None:
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: called.append("x")) for module in base.modules()
    ]
    try:
        answer(twin(base))
    finally:
        for hook in hooks:
            hook.remove()
    assert called == []


def test_it_pauses_before_each_layer_and_the_base_does_not(base: Any) -> None:
    paused: list[None] = []
    made = twin(base, lambda: paused.append(None))
    answer(base)
    assert paused == []
    answer(made)
    assert len(paused) == base.config.num_hidden_layers


def test_whatever_is_done_to_it_the_base_is_as_it_was(base: Any) -> None:
    from peft import LoraConfig, get_peft_model

    before = traces(base)
    made = twin(base)
    made.config.use_cache = False
    made.generation_config.eos_token_id = [99]
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(made, config)
    model.train()
    model.enable_input_require_grads()
    model(input_ids=torch.tensor(TOKENS), labels=torch.tensor(TOKENS)).loss.backward()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    made.get_input_embeddings().to(torch.bfloat16)
    assert traces(base) == before


def test_it_leaves_nothing_behind(base: Any) -> None:
    made = twin(base, lambda: None)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
