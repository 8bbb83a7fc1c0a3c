"""The extra `gpu` is pinned whole, and the CUDA image takes those very pins."""

from pathlib import Path

from tools.check_pins import MORE, PINS, floating, pins

ROOT = Path(__file__).parents[3]


def pinned(file: Path) -> dict[str, str]:
    return pins((ROOT / file).read_text())


def test_names_are_read_as_the_index_compares_them() -> None:
    text = "# a==1\nadvanced_alchemy==1.12.0\nJinja2==3.1.6\nzope.interface==7\n    # via x==2\n"
    assert pins(text) == {"advanced-alchemy": "1.12.0", "jinja2": "3.1.6", "zope-interface": "7"}


def test_what_no_file_pins_is_named() -> None:
    assert floating({"torch": "2.13.0", "cuda-tile": "1.7.0"}, {"torch": "2.13.0"}) == ["cuda-tile"]


def test_each_package_is_pinned_in_one_file() -> None:
    ours, more = pinned(PINS), pinned(MORE)
    assert not ours.keys() & more.keys()
    assert {"vllm", "vllm-bnb-plugin", "triton"} <= more.keys()


def test_the_cuda_image_installs_the_extra_by_both_files() -> None:
    _, cuda = (ROOT / "Dockerfile").read_text().split("AS build-cuda")
    assert f"-c {PINS} -c {MORE} torch=={pinned(PINS)['torch']} '.[gpu]'" in cuda
