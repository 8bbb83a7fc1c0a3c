"""A secret that nobody gave is made once, for the owner's eyes only."""

import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from service.secrets import load_or_make


def test_a_given_secret_is_used_and_not_written(tmp_path: Path) -> None:
    assert load_or_make(tmp_path, "admin_key", "mine") == "mine"
    assert list(tmp_path.iterdir()) == []


def test_a_made_secret_is_long_kept_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    made = load_or_make(folder, "admin_key", "")
    assert made.startswith("lh-")
    assert len(made) >= 43
    assert load_or_make(folder, "admin_key", "") == made
    assert stat.S_IMODE((folder / "admin_key").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["admin_key"]


def test_two_secrets_differ(tmp_path: Path) -> None:
    assert load_or_make(tmp_path, "admin_key", "") != load_or_make(tmp_path, "secret", "")


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        made = [pool.submit(load_or_make, tmp_path, "secret", "") for _ in range(16)]
        assert len({future.result() for future in made}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
