"""The publish gate, on the real base: what was trained passes, and what was damaged does not."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from adapters_store import FilesystemAdapterStore, is_blank  # noqa: E402
from service.base.segmented.base import SegmentedBase  # noqa: E402
from service.rendering.renderer import Renderer  # noqa: E402
from service.serving.gate import Rules, Verdict, examine  # noqa: E402
from service.serving.resident_engine import ResidentEngine  # noqa: E402
from service.training.batch.trainer import BatchTrainer  # noqa: E402
from service.training.trainer import TrainingOutcome  # noqa: E402
from tests.fakes.own_thread import OwnThread  # noqa: E402
from tests.fakes.tiny import origin_of  # noqa: E402
from tests.unit.training.real import loaded_base  # noqa: E402
from tests.unit.training.tasks import CONFIG, WEIGHTS, a_task, train  # noqa: E402

pytestmark = pytest.mark.torch

Damage = Callable[[Path], None]


class Bench:
    """A trained adapter, and the engine that examines copies of it."""

    def __init__(self, folder: Path) -> None:
        loaded = loaded_base("nf4")
        self.folder = folder
        self.description = loaded.description
        self.base = SegmentedBase(loaded.model)
        renderer = Renderer(loaded.description)
        trainer = BatchTrainer(loaded, self.base, renderer, 50)
        self.made: TrainingOutcome = train(trainer, a_task(folder / "job", validation=12))
        self.other = train(trainer, a_task(folder / "other", seed=6)).adapter
        self.store = FilesystemAdapterStore(folder / "adapters")
        self.engine = ResidentEngine(
            self.base,
            loaded.description,
            self.store,
            renderer,
            held=(loaded.quantization, loaded.compute_dtype),
            max_resident=2,
            max_batch=8,
            max_queue=8,
        )
        OwnThread(self.engine.loop)

    def examine(self, damage: Damage) -> Verdict:
        with self.store.stage() as staged:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(self.made.adapter / name, staged / name)
            damage(staged)
            blank = is_blank(staged)
            ref = self.store.publish("acme", "a", staged, origin_of(self.description)).ref
        assert self.made.probes is not None
        probes = msgspec.structs.replace(self.made.probes, blank=blank)
        return asyncio.run(examine(self.engine, ref, probes, Rules()))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("gate"))
    yield made
    made.engine.loop.close()
    made.base.remove()


def configured(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        config = msgspec.json.decode((folder / CONFIG).read_bytes())
        (folder / CONFIG).write_bytes(msgspec.json.encode(config | changes))

    return damage


def changed(change: Callable[[str, Any], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({key: change(key, tensor) for key, tensor in tensors.items()}, folder / WEIGHTS)

    return damage


def test_what_was_trained_passes(bench: Bench) -> None:
    verdict = bench.examine(lambda _: None)
    assert [(check.name, check.outcome) for check in verdict.checks] == [
        ("loads", "passed"),
        ("finite", "passed"),
        ("changes_base", "passed"),
        ("agrees_with_trainer", "passed"),
        ("held_out_loss", "passed"),
    ]


DAMAGES: dict[str, tuple[str, Damage]] = {
    "its alpha is doubled": ("agrees_with_trainer", configured(lora_alpha=16)),
    "it is scaled by another rule": ("agrees_with_trainer", configured(use_rslora=True)),
    "a single layer's B is lost": (
        "agrees_with_trainer",
        changed(lambda key, t: t * 0 if "layers.0.self_attn.v_proj.lora_B" in key else t),
    ),
    "its sign is turned": (
        "agrees_with_trainer",
        changed(lambda key, t: -t if "lora_B" in key else t),
    ),
    "every B is zero": (
        "changes_base",
        changed(lambda key, t: t * 0 if "lora_B" in key else t),
    ),
    "it has hardly an effect": (
        "changes_base",
        changed(lambda key, t: t * 1e-9 if "lora_B" in key else t),
    ),
    "it diverged": ("held_out_loss", changed(lambda key, t: t * 30 if "lora_B" in key else t)),
    "it overflows": ("finite", changed(lambda _, t: t * 1e18)),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_damaged_is_rejected(bench: Bench, what: str) -> None:
    name, damage = DAMAGES[what]
    verdict = bench.examine(damage)
    assert not verdict.passed
    assert name in {check.name for check in verdict.checks if check.outcome == "failed"}


def test_another_adapter_is_rejected(bench: Bench) -> None:
    def swapped(folder: Path) -> None:
        shutil.copyfile(bench.other / WEIGHTS, folder / WEIGHTS)

    verdict = bench.examine(swapped)
    assert "agrees_with_trainer" in verdict.reason
