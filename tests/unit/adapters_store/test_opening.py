"""Which store a path or a URL stands for."""

from pathlib import Path

import pytest

from adapters_store import (
    FilesystemAdapterStore,
    InvalidLocation,
    ObjectAdapterStore,
    open_store,
)


def test_a_path_is_a_folder_and_needs_no_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for where in (tmp_path / "one", str(tmp_path / "two")):
        assert isinstance(open_store(where, cache, 1), FilesystemAdapterStore)
    assert not cache.exists()


@pytest.mark.parametrize(
    "url",
    [
        "file://{folder}/new/folder",
        "s3://bucket/prefix",
        "gs://bucket/prefix",
        "az://container/prefix",
        "abfss://container@account.dfs.core.windows.net/prefix",
    ],
)
def test_a_url_is_object_storage_and_is_not_asked_yet(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    store = open_store(url.format(folder=tmp_path), tmp_path / "cache", 1)
    assert isinstance(store, ObjectAdapterStore)


@pytest.mark.parametrize("url", ["s3://", "ftp://a/b", "http://a/b", "memory:///", "://a"])
def test_a_url_that_names_no_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidLocation):
        open_store(url, tmp_path / "cache", 1)
    assert not (tmp_path / "cache").exists()
