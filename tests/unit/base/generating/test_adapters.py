"""Adapters in slots: they come, grow the slots, fail and go, and nothing of them stays."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from service.base.generating import adapters as adapters_module  # noqa: E402
from service.base.generating.adapters import Adapters  # noqa: E402
from service.base.generating.decoding import DecodingBatch  # noqa: E402
from service.base.generating.room import tokens_that_fit  # noqa: E402
from service.base.lora_files import LoraFiles, read_lora  # noqa: E402
from service.base.lora_rules import BadLora  # noqa: E402
from service.base.segmented.base import SegmentedBase  # noqa: E402
from tests.fakes.tiny import tiny_model, write_adapter  # noqa: E402
from tests.unit.base.generating.running import Bench, row, run  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    ranks = {"thin": 4, "wide": 40, "other": 8}
    return {
        name: write_adapter(folder / name, seed=seed, rank=rank)
        for seed, (name, rank) in enumerate(ranks.items())
    }


@pytest.fixture(scope="module")
def bench(folders: dict[str, Path]) -> Bench:
    return Bench(tiny_model, folders)


@pytest.fixture
def base() -> SegmentedBase:
    return SegmentedBase(tiny_model())


def files(base: SegmentedBase, folder: Path) -> LoraFiles:
    return read_lora(folder, base.shapes)


@pytest.mark.parametrize("static", [False, True])
def test_a_wider_adapter_comes_beside_running_rows_and_changes_none(
    bench, folders, static: bool
) -> None:
    model = bench.model(static=static)
    for name in ("wide", "other"):
        model.adapters.remove(name)
    model.adapters.slots = model.adapters._make(16)
    model.adapters._names.clear()
    model.adapters.add("thin", files(bench.base, folders["thin"]))
    batch = DecodingBatch(model)
    thin, wide, other = row(1, "thin"), row(2, "wide"), row(3, "other")
    batch.add([thin])
    made: dict[int, list[int]] = {}
    for number in range(20):
        for picked in batch.round().picks:
            made.setdefault(picked.key, []).append(picked.token)
        if number == 3:
            model.adapters.add("wide", files(bench.base, folders["wide"]))
            batch.add([wide])
        if number == 5:
            model.adapters.add("other", files(bench.base, folders["other"]))
            batch.add([other])
    assert model.adapters.slots.pool.most_rank == 40
    for each in (thin, wide, other):
        assert len(made[each.key]) > 8
        assert made[each.key] == bench.expected(each, len(made[each.key]))


def test_slots_that_would_not_fit_are_refused_with_the_figures(base, folders, monkeypatch) -> None:
    adapters = Adapters(base, most=3)
    adapters.add("thin", files(base, folders["thin"]))
    before = adapters.slots
    monkeypatch.setattr(adapters_module, "free_memory", lambda device: 1 << 20)
    with pytest.raises(BadLora, match=r"rank 40 need \d+ MiB and 1 MiB are free"):
        adapters.add("wide", files(base, folders["wide"]))
    assert adapters.slots is before
    assert adapters.names == {"thin"}


def test_what_does_not_fit_leaves_no_name_and_no_slot_behind(base, folders) -> None:
    adapters = Adapters(base, most=2)
    broken = files(base, folders["thin"])
    key = list(broken.tensors)[-1]
    broken.tensors[key] = torch.zeros(3, 3)
    for _ in range(4):
        with pytest.raises(BadLora):
            adapters.add("broken", broken)
    assert adapters.names == frozenset()
    assert not adapters.slots.taken
    assert not adapters.slots.pool.weights.any()


def test_a_name_is_never_given_to_other_content(base, folders) -> None:
    adapters = Adapters(base, most=2)
    for name in ("a", "b"):
        adapters.add(name, files(base, folders["thin"]))
    for name in ("a", "c"):
        with pytest.raises(ValueError):
            adapters.add(name, files(base, folders["thin"]))


def test_of_one_that_is_gone_nothing_stays(bench, base, folders) -> None:
    adapters = Adapters(base, most=1)
    adapters.add("other", files(base, folders["other"]))
    adapters.remove("other")
    assert not adapters.slots.pool.weights.any()
    with pytest.raises(KeyError):
        adapters.slot("other")


def test_adapters_come_and_go_beside_a_running_row(bench, folders) -> None:
    model = bench.model()
    model.adapters.remove("other")
    batch = DecodingBatch(model)
    asked = row(1, "thin")
    batch.add([asked])
    tokens = []
    for step in range(12):
        tokens += [picked.token for picked in batch.round().picks]
        if step % 4 == 0:
            model.adapters.add(f"n{step}", files(bench.base, folders["other"]))
        if step % 4 == 2:
            model.adapters.remove(f"n{step - 2}")
    assert tokens == bench.expected(asked, 12)


def test_an_adapter_follows_the_base_into_bf16(folders) -> None:
    bench = Bench(lambda: tiny_model().bfloat16(), folders)
    model = bench.model()
    assert model.adapters.slots.pool.dtype == torch.bfloat16
    made = [
        run(DecodingBatch(model), {0: [row(1, name)]}, {1: 6})[1] for name in (None, *bench.folders)
    ]
    assert len({tuple(tokens) for tokens in made}) == 4


def test_the_cache_takes_a_share_of_what_is_free_and_at_least_one_context() -> None:
    from service.base.generating.kv import KvShape

    shape = KvShape(layers=2, heads=2, width=64, dtype=torch.bfloat16)
    each = 2 * 2 * 2 * 64 * 2
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    asked = {"context": 1000, "sequences": 4}
    assert shape.bytes_each == each
    assert tokens_that_fit(shape, cpu, **asked, free=1 << 40) == 4000
    assert tokens_that_fit(shape, cpu, **asked, free=8000 * each) == 2000
    assert tokens_that_fit(shape, cpu, **asked, free=0) == 1000
    assert tokens_that_fit(shape, gpu, **asked, free=100_000 * each) == 40_000
