"""Our reading of safetensors, beside the library's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from adapters_store import InvalidAdapter, is_blank
from adapters_store.config import AdapterConfig
from adapters_store.tensors import check, read_header
from tests.builders import lora_weights, module_name

CONFIG = AdapterConfig(4, {}, {}, frozenset({"q_proj"}))
A, B = module_name(0, "q_proj", "A"), module_name(0, "q_proj", "B")
GOOD = {
    A: {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
    B: {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 64]},
}


def written(path: Path, header: object, data: int = 64) -> Path:
    return raw(path, json.dumps(header).encode(), data)


def raw(path: Path, header: bytes, data: int = 64) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data))
    return path


def checked(path: Path, config: AdapterConfig = CONFIG) -> None:
    with path.open("rb") as file:
        check(file, config)


def changed(name: str, **changes: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | changes}


@pytest.mark.parametrize("padding", [b"", b"   "])
def test_a_good_file_passes_here_and_in_the_library(tmp_path: Path, padding: bytes) -> None:
    header = json.dumps(GOOD | {"__metadata__": {"format": "pt"}}).encode()
    path = raw(tmp_path / "w", header + padding)

    checked(path)
    assert sorted(load_file(path)) == [A, B]


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        pytest.param(GOOD, 63, "cut off: 63 bytes of data where 64 belong", id="cut"),
        pytest.param(GOOD, 65, "1 bytes after the last tensor", id="longer"),
        pytest.param([], 0, "not an object", id="list"),
        pytest.param({}, 0, "no tensors", id="nothing"),
        pytest.param({"__metadata__": {}}, 0, "no tensors", id="metadata only"),
        pytest.param(GOOD | {"__metadata__": {"a": 1}}, 64, "cannot be read", id="metadata"),
        pytest.param(changed(A, dtype="I8"), 64, "I8", id="dtype"),
        pytest.param(changed(A, dtype="F64"), 64, "F64", id="double"),
        pytest.param(changed(A, shape=[4, 3]), 64, "do not fit", id="shape"),
        pytest.param(changed(A, shape=[0, 2]), 64, ">= 1", id="no rows"),
        pytest.param(changed(A, shape=[-4, -2]), 64, ">= 1", id="negative"),
        pytest.param(changed(A, shape=[2**70, 2]), 64, "shape", id="overflow"),
        pytest.param(changed(A, shape=[1] * 99_999), 64, "length <= 8", id="many dimensions"),
        pytest.param(changed(A, shape=[8]), 64, "not a matrix", id="vector"),
        pytest.param(changed(A, shape=[2, 4]), 64, "rank 2, the config says 4", id="turned"),
        pytest.param(changed(B, data_offsets=[0, 32]), 64, "overlap", id="overlap"),
        pytest.param(changed(B, data_offsets=[40, 72]), 72, "hole", id="hole"),
        pytest.param(changed(A, data_offsets=[-32, 0]), 64, ">= 0", id="before"),
        pytest.param(changed(A, data_offsets=[0]), 64, "length 2", id="one offset"),
        pytest.param(changed(A, extra=1), 64, "extra", id="unknown field"),
        pytest.param(GOOD | {A: 7}, 64, "object", id="number"),
    ],
)
def test_a_malformed_header_is_refused(
    tmp_path: Path, header: object, data: int, reason: str
) -> None:
    with pytest.raises(InvalidAdapter, match=reason):
        checked(written(tmp_path / "w", header, data))


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":1,"a":2}',
        b"{",
        b"{}garbage",
        b"{\xff}",
        b' {"__metadata__":{}}',
        b'{"a":' * 50_000 + b"}" * 50_000,
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 9999 + b'],"data_offsets":[0,4]}}',
    ],
)
def test_a_header_that_is_not_plain_json_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InvalidAdapter, match="header"):
        checked(raw(tmp_path / "w", header))


@pytest.mark.parametrize("length", [64, 65, 2**31, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_not_allocated(tmp_path: Path, length: int) -> None:
    (tmp_path / "w").write_bytes(length.to_bytes(8, "little") + b"{" + b" " * 62)

    with pytest.raises(InvalidAdapter, match="header is longer than the file"):
        checked(tmp_path / "w")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found(tmp_path: Path, dtype: Any, bad: float) -> None:
    weights = {name: w.astype(dtype) for name, w in lora_weights(4, 0, ["q_proj"], 1, 16).items()}
    save_file(weights, tmp_path / "w")
    checked(tmp_path / "w")

    weights[B][15, 3] = bad
    save_file(weights, tmp_path / "w")

    with pytest.raises(InvalidAdapter, match=r"lora_B\.weight holds NaN or infinity"):
        checked(tmp_path / "w")


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF])
def test_bf16_is_checked_bit_by_bit(tmp_path: Path, bits: int) -> None:
    sizes = {"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16]}
    other = {"dtype": "BF16", "shape": [2, 4], "data_offsets": [16, 32]}
    path = written(tmp_path / "w", {A: sizes, B: other}, 0)
    largest = b"\x7f\x7f" * 15
    good = path.read_bytes() + largest

    path.write_bytes(good + b"\x7f\xff")
    checked(path)
    path.write_bytes(good + bits.to_bytes(2, "little"))
    with pytest.raises(InvalidAdapter, match="NaN or infinity"):
        checked(path)


def test_a_matrix_longer_than_one_chunk_is_checked_to_its_end(tmp_path: Path) -> None:
    weights = {
        A: np.ones((4, 300_000), np.float32),
        B: np.ones((3, 4), np.float32),
    }
    weights[A][3, -1] = np.nan
    save_file(weights, tmp_path / "w")

    with pytest.raises(InvalidAdapter, match="NaN"):
        checked(tmp_path / "w")


def test_ranks_follow_the_rank_pattern(tmp_path: Path) -> None:
    weights = lora_weights(4, 0, ["q_proj"], 1, 16) | lora_weights(8, 0, ["v_proj"], 1, 16)
    save_file(weights, tmp_path / "w")
    targets = frozenset({"q_proj", "v_proj"})

    checked(tmp_path / "w", AdapterConfig(4, {"v_proj": 8}, {}, targets))
    with pytest.raises(InvalidAdapter, match=r"v_proj.*rank 8, the config says 4"):
        checked(tmp_path / "w", AdapterConfig(4, {}, {}, targets))


@given(position=st.integers(0, 400), value=st.integers(0, 255))
@settings(max_examples=300)
def test_what_we_read_the_library_reads_too(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("w") / "w"
    content = bytearray(written(path, GOOD).read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)

    try:
        with path.open("rb") as file:
            ours = {tensor.name: tensor.shape for tensor in read_header(file)[0]}
    except InvalidAdapter:
        ours = None
    try:
        theirs = {name: tensor.shape for name, tensor in load_file(path).items()}
    except SafetensorError:
        theirs = None

    # We are the stricter: other types, and empty tensors, are not for us.
    assert ours in (None, theirs)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_has_only_zeros_in_each_b_is_blank(tmp_path: Path, dtype: str) -> None:
    width = 4 if dtype == "F32" else 2
    header = {
        A: {"dtype": dtype, "shape": [4, 2], "data_offsets": [0, 8 * width]},
        B: {"dtype": dtype, "shape": [2, 4], "data_offsets": [8 * width, 16 * width]},
    }
    path = written(tmp_path / "adapter_model.safetensors", header, 16 * width)
    content = bytearray(path.read_bytes())
    assert is_blank(tmp_path)
    content[-1] = 0x80  # the sign of the last number: a negative zero
    path.write_bytes(content)
    assert is_blank(tmp_path)
    content[-1] = 0x81
    path.write_bytes(content)
    assert not is_blank(tmp_path)
    content[-1], content[-16 * width] = 0, 1
    path.write_bytes(content)
    assert is_blank(tmp_path), "A alone changes nothing"
