"""Any bytes at all: an archive is taken whole, or refused, and nothing else happens."""

import gzip
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings

from adapters_store import InvalidAdapter
from adapters_store.intake import from_archive
from tests.archives import CONFIG, WEIGHTS, Folder, folder_of, tar
from tests.builders import a_peft_folder
from tests.strategies import mutations

MOST = 1 << 20


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("adapter") / "made"
    return folder_of(a_peft_folder(folder, targets=("q_proj",), layers=1, hidden=8))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@given(change=mutations())
@settings(max_examples=400, deadline=None)
def test_no_change_of_an_archive_does_more_than_refuse_it(
    good: Folder, pack: object, change: object
) -> None:
    assert callable(pack)
    assert callable(change)
    with tempfile.TemporaryDirectory() as place:
        archive, staged = Path(place) / "archive", Path(place) / "staged"
        archive.write_bytes(change(pack(tar(good, root="a/"))))
        staged.mkdir()
        with suppress(InvalidAdapter):
            from_archive(archive, staged, MOST)
            assert {CONFIG, WEIGHTS} == {path.name for path in staged.iterdir()}
        assert {path.name for path in Path(place).iterdir()} == {"archive", "staged"}
