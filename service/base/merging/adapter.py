"""An adapter's change of the base's weights: scaling * B @ A, as PEFT would apply it."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from service.base.lora_files import lora_config
from service.base.lora_rules import PREFIX, scaling

_A, _B = ".lora_A.weight", ".lora_B.weight"


class Delta:
    """PEFT's files of one adapter. The store has checked them. Raises BadLora."""

    def __init__(self, folder: Path) -> None:
        lora = lora_config(folder)
        self._scaling = scaling(lora.rank, lora.alpha, rslora=lora.rslora)
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
        weight.addmm_(b, a, alpha=self._scaling)
