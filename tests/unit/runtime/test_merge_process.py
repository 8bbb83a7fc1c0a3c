"""What the process that merges does with its order, and what it says when it cannot."""

from pathlib import Path

import msgspec
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from adapters_store import AdapterStore, MergedRef, RevisionRef, checking  # noqa: E402
from service.adapters.merges_schemas import MergeResult  # noqa: E402
from service.base.description import BaseDescription  # noqa: E402
from service.base.merging import Agreement  # noqa: E402
from service.runtime.merge_messages import MergeOrder, MergeOutcome  # noqa: E402
from service.runtime.merge_process import run  # noqa: E402
from service.settings import Settings  # noqa: E402
from tests.fakes.tiny import publish, tiny_base  # noqa: E402

LATER = 4e9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseDescription:
    return tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def settings(tmp_path: Path, base: BaseDescription) -> Settings:
    return Settings(data_dir=tmp_path / "data", base_model=str(base.path), base_name=base.name)


@pytest.fixture
def ref(store: AdapterStore, base: BaseDescription) -> RevisionRef:
    return publish(store, base, "acme", "desk", seed=1)


def order(ref: RevisionRef) -> MergeOrder:
    merged = MergedRef(ref.tenant, ref.adapter, ref.digest, "merge-" + "0" * 24)
    return MergeOrder(merged, "plain")


def refused(outcome: MergeOutcome, store: AdapterStore) -> str:
    """The code of a refusal that left nothing."""
    assert outcome.result is None
    assert outcome.error is not None
    assert list(store.list_merged("acme")) == []
    assert list(checking.check(store, LATER)) == []
    return outcome.error.code


def test_an_order_becomes_a_published_model_and_says_which(
    settings: Settings, store: AdapterStore, ref: RevisionRef, base: BaseDescription
) -> None:
    small = msgspec.structs.replace(settings, merge_shard_bytes=200_000)

    outcome = run(small, order(ref))

    assert outcome.error is None
    result = msgspec.convert(outcome.result, MergeResult)
    model = store.open_merged(order(ref).ref)
    model.verify()
    assert {file.name: file.sha256 for file in result.files} == {
        name: entry.sha256 for name, entry in model.manifest.files.items()
    }
    assert result.bytes == sum(file.bytes for file in result.files)
    assert len([file for file in result.files if file.name.endswith(".safetensors")]) > 2
    assert result.agreement.difference <= result.agreement.tolerance
    assert model.manifest.origin.base_digest == base.digest
    assert model.manifest.origin.method == "plain"


def test_what_disagrees_is_refused_with_the_figures_and_nothing_is_kept(
    settings: Settings, store: AdapterStore, ref: RevisionRef
) -> None:
    bad = Agreement(difference=0.5, tolerance=0.4, noise=0.1, effect=3.0, tokens=9)

    outcome = run(settings, order(ref), lambda *_: bad)

    assert refused(outcome, store) == "merge_disagrees"
    assert outcome.error is not None
    assert "0.5 nats" in outcome.error.message
    assert "0.4 are allowed" in outcome.error.message
    assert list((settings.data_dir / "adapters" / ".staging").iterdir()) == []


def test_a_revision_that_is_gone_is_named(settings: Settings, store: AdapterStore) -> None:
    gone = RevisionRef("acme", "desk", "0" * 64)
    assert refused(run(settings, order(gone)), store) == "revision_not_found"


def test_a_revision_that_is_deleted_meanwhile_is_not_published_into(
    settings: Settings, store: AdapterStore, ref: RevisionRef
) -> None:
    def deleting(*_: object) -> Agreement:
        store.delete(ref)
        return Agreement(difference=0.0, tolerance=0.1, noise=0.0, effect=1.0, tokens=1)

    assert refused(run(settings, order(ref), deleting), store) == "revision_not_found"


def test_a_revision_of_another_base_is_refused(
    settings: Settings, store: AdapterStore, ref: RevisionRef, base: BaseDescription, tmp_path: Path
) -> None:
    from tests.fakes.tiny import tiny_model

    other = tiny_base(tmp_path / "other")
    tiny_model(rms_norm_eps=1e-3).save_pretrained(other.path)
    elsewhere = msgspec.structs.replace(settings, base_model=str(other.path))

    assert refused(run(elsewhere, order(ref)), store) == "adapter_base_mismatch"


def test_a_damaged_revision_is_refused(
    settings: Settings, store: AdapterStore, ref: RevisionRef
) -> None:
    file = store.open(ref).path / "adapter_model.safetensors"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1])

    outcome = run(settings, order(ref))

    assert outcome.error is not None
    assert outcome.error.code == "invalid_adapter"
    assert list(store.list_merged("acme")) == []
