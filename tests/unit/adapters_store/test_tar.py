"""Tar streams as Python's own tarfile reads them."""

import io
import tarfile
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from adapters_store import tar

contents = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}\.json", fullmatch=True),
    st.binary(max_size=40) | st.sampled_from([b"", bytes(511), bytes(512), bytes(513)]),
    max_size=4,
)


def made(files: dict[str, bytes]) -> bytes:
    def pieces(content: bytes) -> Iterator[bytes]:
        yield content[:3]
        yield content[3:]

    members = ((name, len(content), pieces(content)) for name, content in files.items())
    return b"".join(tar.blocks(members, made=1_700_000_000))


@given(contents)
def test_what_goes_in_comes_out_and_its_length_was_known(files: dict[str, bytes]) -> None:
    archive = made(files)

    assert len(archive) == tar.size(len(content) for content in files.values())
    assert archive == made(files)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        members = opened.getmembers()
        found = {member.name: opened.extractfile(member) for member in members}
        assert {name: file and file.read() for name, file in found.items()} == files
    for member in members:
        assert (member.isreg(), member.mode, member.mtime) == (True, 0o644, 1_700_000_000)
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


def test_a_file_of_many_gigabytes_has_its_size_in_the_header() -> None:
    size = 40 << 30
    header = next(iter(tar.blocks([("model.safetensors", size, iter([]))], made=0)))
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == size
    assert tar.size([size]) == 512 + size + 1024
