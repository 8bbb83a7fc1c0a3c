"""What every adapter store refuses to publish or to open, and what it says then."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters_store import AdapterStore, InvalidAdapter
from tests.builders import a_peft_folder, an_origin, lora_weights, module_name
from tests.contracts.conftest import Harm

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize("damage", [flip, cut, lengthen, Path.unlink])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_revision_whose_files_changed_does_not_open_and_says_which(
    store: AdapterStore, staged: Path, harm: Harm, damage: Callable[[Path], None], name: str
) -> None:
    published = store.publish("acme", "desk", staged, an_origin())
    harm(published, name, damage)

    with pytest.raises(InvalidAdapter, match=name):
        store.open(published.ref)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"{}", "damaged"),
    ],
)
def test_a_damaged_manifest_does_not_open(
    store: AdapterStore, staged: Path, harm: Harm, content: bytes, reason: str
) -> None:
    published = store.publish("acme", "desk", staged, an_origin())
    harm(published, MANIFEST, lambda path: overwrite(path, content))

    with pytest.raises(InvalidAdapter, match=reason):
        store.open(published.ref)


def test_a_manifest_of_another_revision_does_not_open(
    store: AdapterStore, harm: Harm, tmp_path: Path
) -> None:
    mine, other = (
        store.publish("acme", "desk", a_peft_folder(tmp_path / str(n), seed=n), an_origin())
        for n in range(2)
    )
    for name in (CONFIG, WEIGHTS, MANIFEST):
        content = (other.path / name).read_bytes()
        harm(mine, name, lambda path, content=content: overwrite(path, content))

    with pytest.raises(InvalidAdapter, match="another revision"):
        store.open(mine.ref)


def _damages() -> Iterator[tuple[str, Callable[[Path], None], str]]:
    def weights(change: Callable[[Path], None]) -> Callable[[Path], None]:
        return lambda folder: change(folder / WEIGHTS)

    def document(**changes: object) -> Callable[[Path], None]:
        return lambda folder: void(a_peft_folder(folder, **changes))  # type: ignore[arg-type]

    def number(value: float) -> Callable[[Path], None]:
        matrix = np.ones((4, 16), np.float32)
        matrix[-1, -1] = value
        return document(weights={module_name(1, "v_proj", "A"): matrix})

    yield "no config", lambda folder: (folder / CONFIG).unlink(), CONFIG
    yield "no weights", lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS
    yield "cut", weights(cut), "cut off: "
    yield "longer", weights(lengthen), "1 bytes after"
    yield "empty", weights(lambda path: void(path.write_bytes(b""))), "cut off"
    yield "pickle", weights(lambda path: void(path.write_bytes(b"PK\3\4" + b"x" * 99))), "header"
    yield "huge header", weights(lambda path: void(path.write_bytes(b"\xff" * 99))), "header"
    yield "no tensors", weights(lambda path: save_file({}, path)), "no tensors"
    yield "NaN", number(np.nan), "layers.1.self_attn.v_proj.lora_A.weight holds NaN"
    yield "infinity", number(-np.inf), "holds NaN or infinity"
    yield "wrong rank", document(r=8), "rank 4, the config says 8"
    yield "missing B", weights(_drop_a_b), "layers.0.self_attn.q_proj has no lora_B"
    yield "untargeted", document(target_modules=["q_proj"]), "not among the config's target_modules"
    yield "missing target", document(target_modules=["q_proj", "v_proj", "o_proj"]), "o_proj"
    yield "foreign tensor", document(weights={"lm_head.weight": np.ones(4, np.float32)}), "lm_head"
    yield "DoRA", document(use_dora=True), "'use_dora' is not supported"
    yield "whole modules", document(modules_to_save=["lm_head"]), "modules_to_save"
    yield "not LoRA", document(peft_type="IA3"), "'peft_type' must be LORA"
    yield "PiSSA", document(init_lora_weights="pissa"), "init_lora_weights"


def void(_: object) -> None:
    """Drop a result."""


def _drop_a_b(path: Path) -> None:
    tensors = lora_weights(4, 0, ["q_proj", "v_proj"], 2, 16)
    del tensors[module_name(0, "q_proj", "B")]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "reason"), [pytest.param(d, r, id=name) for name, d, r in _damages()]
)
def test_a_bad_adapter_is_refused_by_naming_what_is_wrong_and_leaves_nothing(
    store: AdapterStore, staged: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(staged)

    with pytest.raises(InvalidAdapter) as fault:
        store.publish("acme", "desk", staged, an_origin())

    assert reason in str(fault.value)
    assert list(store.list("acme")) == []
