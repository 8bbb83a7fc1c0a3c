"""An adapter's change of the base's weights: scaling * B @ A, as PEFT would apply it."""

import math
from pathlib import Path

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor

from service.base.lora_rules import PREFIX

_A, _B = ".lora_A.weight", ".lora_B.weight"


class Delta:
    """PEFT's files of one adapter. The store has checked them."""

    def __init__(self, folder: Path) -> None:
        self._config = LoraConfig.from_pretrained(str(folder))
        self._file = safe_open(folder / "adapter_model.safetensors", "pt")
        names = self._file.keys()
        self.modules = sorted(
            name.removeprefix(PREFIX).removesuffix(_A) for name in names if name.endswith(_A)
        )

    def shape(self, module: str) -> tuple[int, int]:
        """Tell the shape of the weight that is changed: features out, then in."""
        out = self._file.get_slice(f"{PREFIX}{module}{_B}").get_shape()[0]
        inside = self._file.get_slice(f"{PREFIX}{module}{_A}").get_shape()[1]
        return out, inside

    def add_to(self, weight: Tensor, module: str) -> None:
        """Add the change to an fp32 weight, in place."""
        a, b = (self._file.get_tensor(f"{PREFIX}{module}{side}").float() for side in (_A, _B))
        weight.addmm_(b, a, alpha=self.scaling(module))

    def scaling(self, module: str) -> float:
        """Tell alpha / rank, or alpha / sqrt(rank) for rsLoRA, with the module's own of each."""
        config = self._config
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, module), config.r)
        alpha = config.alpha_pattern.get(
            get_pattern_key(config.alpha_pattern, module), config.lora_alpha
        )
        return float(alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)
