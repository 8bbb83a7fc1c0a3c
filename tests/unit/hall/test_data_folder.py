"""One API process to a data folder, and a clear word when there can be none."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.data_folder import held
from service.settings import SettingsError

HOLD = "import sys, pathlib; from service.data_folder import held\n"
HOLD += "with held(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def test_the_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "data"):
        assert (tmp_path / "a" / "data").stat().st_mode & 0o777 == 0o700


def test_a_folder_is_held_once_and_free_after_a_kill(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(SettingsError, match="LOREHOUSE_DATA_DIR: another"), held(tmp_path):
            pass
        other.kill()
        other.wait()
    with held(tmp_path):
        pass


@pytest.mark.parametrize("folder", ["/dev/null/data", "/proc/data", "/dev/null"])
def test_a_folder_that_cannot_be_is_named(folder: str) -> None:
    with pytest.raises(SettingsError, match=f"LOREHOUSE_DATA_DIR: .*{folder}"), held(Path(folder)):
        pass
