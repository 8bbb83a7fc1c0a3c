"""Checkpoints are whole or not there."""

from pathlib import Path

import pytest

from service.training.checkpoints import KEPT, CheckpointIncomplete, Checkpoints

REQUIRED = ("weights", "optimizer")


def fill(folder: Path) -> None:
    for name in REQUIRED:
        (folder / name).write_text(f"{name} of {folder.name}")


def checkpoints(root: Path, fingerprint: str = "task") -> Checkpoints:
    return Checkpoints(root, fingerprint, REQUIRED)


def test_none_is_there_at_first(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "none").newest() is None
    assert checkpoints(tmp_path / "none").newest_step() == 0


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (9, 10):
        checkpoints(tmp_path).write(step, fill)
    assert checkpoints(tmp_path).newest() == tmp_path / "step-10"
    assert checkpoints(tmp_path).newest_step() == 10


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoints(tmp_path).write(step, fill)
    assert {folder.name for folder in tmp_path.iterdir()} == {
        f"step-{n}" for n in range(6 - KEPT, 6)
    }


def test_one_without_a_required_file_is_refused_and_the_older_stays(tmp_path: Path) -> None:
    checkpoints(tmp_path).write(1, fill)
    with pytest.raises(CheckpointIncomplete, match="optimizer"):
        checkpoints(tmp_path).write(2, lambda folder: (folder / "weights").write_text("w") and None)
    assert checkpoints(tmp_path).newest_step() == 1


def test_a_crash_while_filling_leaves_the_older_and_does_not_hinder_the_next(
    tmp_path: Path,
) -> None:
    def crash(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    checkpoints(tmp_path).write(1, fill)
    with pytest.raises(KeyboardInterrupt):
        checkpoints(tmp_path).write(2, crash)
    assert checkpoints(tmp_path).newest_step() == 1
    checkpoints(tmp_path).write(2, fill)
    assert checkpoints(tmp_path).newest_step() == 2


@pytest.mark.parametrize("name", ["weights", "optimizer", "complete.json"])
@pytest.mark.parametrize("damage", ["removed", "cut", "changed"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        checkpoints(tmp_path).write(step, fill)
    file = tmp_path / "step-2" / name
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content[:-3] if damage == "cut" else b"x" + content[1:])
    assert checkpoints(tmp_path).newest_step() == 1


def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    checkpoints(tmp_path).write(2, fill)
    (tmp_path / "step-2" / "weights").unlink()
    checkpoints(tmp_path).write(2, fill)
    assert checkpoints(tmp_path).newest_step() == 2


def test_another_tasks_is_not_there(tmp_path: Path) -> None:
    checkpoints(tmp_path, "one").write(5, fill)
    assert checkpoints(tmp_path, "two").newest() is None
    checkpoints(tmp_path, "two").write(1, fill)
    assert checkpoints(tmp_path, "two").newest_step() == 1


def test_a_stray_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-7").mkdir()
    assert checkpoints(tmp_path).newest() is None
