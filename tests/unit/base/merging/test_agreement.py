"""Whether a merged model is told from one that is not the adapter's."""

import math
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from service.base.description import BaseDescription, describe  # noqa: E402
from service.base.merging import Method, compare  # noqa: E402
from service.base.merging.agreement import FLOOR, NOISES  # noqa: E402
from service.rendering.renderer import Renderer  # noqa: E402
from service.runtime.merge_probes import probes  # noqa: E402
from service.settings import BUNDLED_BASE  # noqa: E402
from tests.unit.base.merging.test_merge import an_adapter, run  # noqa: E402


@pytest.fixture(scope="module")
def base() -> BaseDescription:
    return describe(str(BUNDLED_BASE))


@pytest.fixture(scope="module")
def prompts(base: BaseDescription) -> list[list[int]]:
    return probes(Renderer(base))


@pytest.fixture(scope="module")
def adapter(base: BaseDescription, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About as strong as one that was trained."""
    return adapter_of(base, tmp_path_factory.mktemp("adapter"), 0.15)


def adapter_of(base: BaseDescription, folder: Path, strength: float) -> Path:
    an_adapter(base, folder, target_modules=["q_proj", "v_proj", "up_proj"])
    file = folder / "adapter_model.safetensors"
    save_file({name: t * strength for name, t in load_file(file).items()}, file)
    return folder


@pytest.mark.parametrize("method", ["plain", "nf4"])
def test_a_good_merge_agrees_by_far(
    base: BaseDescription,
    adapter: Path,
    prompts: list[list[int]],
    tmp_path: Path,
    method: Method,
) -> None:
    merged = run(base, adapter, tmp_path / "merged", method=method)

    found = compare(base, adapter, merged, method, prompts)

    assert found.agrees
    assert found.tokens == sum(len(prompt) - 1 for prompt in prompts)
    assert 0 < found.difference < found.tolerance / 2
    assert found.tolerance == max(FLOOR, NOISES * found.noise)
    assert found.effect > 2 * found.tolerance, "so that it could tell"


def test_base_alone_another_strength_and_another_method_do_not_agree(
    base: BaseDescription, adapter: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    double = adapter_of(base, tmp_path / "double", 0.15 * math.sqrt(2))
    wrong = [
        base.path,
        run(base, double, tmp_path / "other"),
        run(base, adapter, tmp_path / "nf4", method="nf4"),
    ]

    for folder in wrong:
        found = compare(base, adapter, folder, "plain", prompts)
        assert not found.agrees, found


def test_what_is_not_a_number_does_not_agree(
    base: BaseDescription, adapter: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    merged = run(base, adapter, tmp_path / "merged")
    file = merged / "model-00001-of-00001.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})

    assert not compare(base, adapter, merged, "plain", prompts).agrees
