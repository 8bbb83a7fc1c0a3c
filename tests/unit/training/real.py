"""The bundled base. Importing this is cheap; calling it loads torch."""

from functools import cache
from typing import Any, Literal

from service.base.description import describe
from service.settings import BUNDLED_BASE

TOKENS = [[1, 17, 42, 99, 7, 256, 8, 12]]


@cache
def loaded_base(  # type: ignore[no-untyped-def]
    quantization: Literal["nf4", "none"], dtype: Literal["auto", "bfloat16"] = "auto"
):
    """Load the bundled base."""
    from service.base.loading import load_base

    return load_base(describe(str(BUNDLED_BASE)), quantization, 1, dtype)


def traces(model: Any) -> dict[str, Any]:
    """Give all that a task could leave on a base."""
    import torch

    with torch.no_grad():
        answers = model(input_ids=torch.tensor(TOKENS)).logits.numpy().tobytes()
    return {
        "logits": answers,
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": sorted(vars(model)),
        "forward": vars(model).get("forward"),
        "hooks": sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ),
        "modes": {module.training for module in model.modules()},
        "checkpointing": model.is_activation_checkpointing,
        "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "config": model.config.to_json_string(),
        "generation": model.generation_config.to_json_string(),
    }
