"""However tensors are divided among files, all of them are there, and are read back."""

import json
import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from service.base.merging.shards import BYTES, Entry, aligned, divide, header, index

entries = st.lists(
    st.builds(
        Entry,
        name=st.text("abcdef.", min_size=1, max_size=12),
        dtype=st.sampled_from(sorted(BYTES)),
        shape=st.lists(st.integers(0, 6), max_size=3).map(tuple),
    ),
    max_size=20,
    unique_by=lambda entry: entry.name,
)


@given(entries, st.integers(1, 600))
def test_every_tensor_is_in_one_file_in_order_and_no_file_is_too_large(
    given_entries: list[Entry], most: int
) -> None:
    files = divide(given_entries, most)

    assert [entry for held in files.values() for entry in held] == given_entries
    for held in files.values():
        assert len(held) == 1 or sum(entry.bytes for entry in held) <= most
    count = len(files)
    assert list(files) == [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    document = json.loads(index(files))
    assert document["weight_map"].keys() == {entry.name for entry in given_entries}
    assert document["metadata"]["total_size"] == sum(entry.bytes for entry in given_entries)


@given(entries.filter(bool))
def test_safetensors_reads_a_file_that_begins_so(given_entries: list[Entry]) -> None:
    ordered = aligned(given_entries)
    data = b"".join(bytes([n % 256]) * entry.bytes for n, entry in enumerate(ordered))

    found = dict(deserialize(header(ordered) + data))

    assert found.keys() == {entry.name for entry in given_entries}
    for number, entry in enumerate(ordered):
        assert found[entry.name]["dtype"] == entry.dtype
        assert tuple(found[entry.name]["shape"]) == entry.shape
        assert set(found[entry.name]["data"]) <= {number % 256}


@given(entries)
def test_each_tensor_begins_where_its_numbers_may(given_entries: list[Entry]) -> None:
    ordered = aligned(given_entries)
    text = header(ordered)

    length = int.from_bytes(text[:8], "little")
    assert len(text) == 8 + length
    assert length % 8 == 0
    document = msgspec.json.decode(text[8:])
    for entry in ordered:
        start, end = document[entry.name]["data_offsets"]
        assert start % BYTES[entry.dtype] == 0
        assert end - start == BYTES[entry.dtype] * math.prod(entry.shape)
