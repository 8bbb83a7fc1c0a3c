import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.datasets.receive import Expected, Form, displayable, receive
from service.errors import BadRequest, TooLarge

FORM = "multipart/form-data; boundary=xyz"
EXPECTED = Expected(frozenset({"purpose"}), 100, "the limit")


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + (
        value + b"\r\n"
    )


END = b"--xyz--\r\n"


async def received(
    tmp_path: Path, body: bytes, content_type: str | None = FORM, step: int = 7
) -> Form:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), step):
            yield body[start : start + step]
        yield b""

    places = {name: tmp_path / name for name in ("file", "more")}
    form = await receive(chunks(), content_type, places, EXPECTED)
    form.file("file")
    return form


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_form_in_any_chunks_is_written_as_it_was(tmp_path: Path, step: int) -> None:
    data = b"one\r\n--xy\r\ntwo\x00"
    body = part("file", data, "data.jsonl") + part("purpose", b"fine-tune") + END
    form = await received(tmp_path, body, step=step)
    file = form.file("file")
    assert file.path.read_bytes() == data
    assert (file.filename, file.bytes) == ("data.jsonl", len(data))
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert form.fields == {"purpose": "fine-tune"}


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_several_files_are_written_each_to_its_place(tmp_path: Path, step: int) -> None:
    body = part("file", b"one", "a") + part("purpose", b"x") + part("more", b"two" * 9, "b") + END
    form = await received(tmp_path, body, step=step)
    found = {name: (file.path.read_bytes(), file.filename) for name, file in form.files.items()}
    assert found == {"file": (b"one", "a"), "more": (b"two" * 9, "b")}
    assert form.files["more"].sha256 == hashlib.sha256(b"two" * 9).hexdigest()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (part("purpose", b"x") + END, "file"),
        (part("file", b"x") + part("file", b"y") + END, "file"),
        (part("purpose", b"x") + part("purpose", b"y") + END, "purpose"),
        (part("colour", b"x") + END, "colour"),
        (part("purpose", b"x" * 5000) + END, "purpose"),
        (part("purpose", b"\xff") + part("file", b"x") + END, "purpose"),
        (part("file", b"x"), None),
        (b"--xyz\r\nContent-Disposition: attachment\r\n\r\nx\r\n" + END, None),
        (b"nonsense", None),
        (b"", None),
        (END, "file"),
    ],
)
async def test_a_bad_form_is_refused_and_named(
    tmp_path: Path, body: bytes, param: str | None
) -> None:
    with pytest.raises(BadRequest) as caught:
        await received(tmp_path, body)
    assert caught.value.param == param


@pytest.mark.parametrize("content_type", [None, "application/json", "multipart/form-data", ""])
async def test_a_body_that_is_no_form_is_refused(tmp_path: Path, content_type: str | None) -> None:
    with pytest.raises(BadRequest, match="multipart/form-data"):
        await received(tmp_path, part("file", b"x") + END, content_type)


async def test_a_file_over_the_limit_is_refused_before_its_end(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="100 bytes, the limit") as caught:
        await received(tmp_path, part("file", b"x" * 101))
    assert caught.value.param == "file"
    exactly = await received(tmp_path, part("file", b"x" * 100) + END)
    assert exactly.file("file").bytes == 100
    with pytest.raises(TooLarge) as caught:
        await received(tmp_path, part("file", b"x" * 60) + part("more", b"x" * 41) + END)
    assert caught.value.param == "more"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("data.jsonl", "data.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\train.jsonl", "train.jsonl"),
        ("a\x00b\r\nc\u202e.txt", "abc.txt"),
        ("..", "upload"),
        ("dir/", "upload"),
        (None, "upload"),
        ("x" * 300, "x" * 255),
        ("naïve 日本.jsonl", "naïve 日本.jsonl"),
    ],
)
def test_a_filename_is_only_a_name(given: str | None, shown: str) -> None:
    assert displayable(given) == shown
