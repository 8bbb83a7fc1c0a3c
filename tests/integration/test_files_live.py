"""Files over a real socket: OpenAI's own client, clients that stop, and files of any size."""

import hashlib
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import openai
import pytest

from service.app import create_app
from service.settings import Settings
from tests.conftest import ADMIN_KEY
from tests.integration.live import eventually, key_of, serving
from tests.integration.test_files_api import GOOD, on_disk

MAX_BYTES = 1_000_000
HUGE = 200 * 1024 * 1024
FEW_BYTES = 12 * 1024 * 1024


@pytest.fixture
def limited(settings: Settings) -> Settings:
    """Settings with a small limit."""
    return msgspec.structs.replace(settings, max_file_bytes=MAX_BYTES)


@pytest.fixture
def url(limited: Settings) -> Iterator[str]:
    with serving(create_app(limited)) as url:
        yield url


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key_of(url, ADMIN_KEY, "acme")) as client:
        yield client


def test_openais_client_stores_shows_lists_and_deletes_files(
    sdk: openai.OpenAI, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD)
    file = sdk.files.create(
        file=path,
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.filename, file.bytes, file.status) == ("train.jsonl", len(GOOD), "processed")
    assert file.expires_at == file.created_at + 3600
    assert sdk.files.wait_for_processing(file.id).id == file.id
    other = sdk.files.create(file=b"{}", purpose="batch")
    assert [one.id for one in sdk.files.list(limit=1)] == [other.id, file.id]
    assert sdk.files.content(file.id).read() == GOOD
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)


def test_openais_client_reads_the_faults_of_a_bad_file(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.files.create(file=b'{"text": ""}', purpose="fine-tune")
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "file")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["errors"] == [{"line": 1, "reason": '"text" is empty'}]


def test_openais_client_uploads_in_chunks(sdk: openai.OpenAI) -> None:
    done = sdk.uploads.upload_file_chunked(
        file=GOOD,
        filename="train.jsonl",
        bytes=len(GOOD),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=50,
        md5=hashlib.md5(GOOD).hexdigest(),
    )
    assert done.status == "completed"
    assert done.file is not None
    assert sdk.files.content(done.file.id).read() == GOOD
    pending = sdk.uploads.create(
        bytes=5, filename="x", mime_type="text/plain", purpose="assistants"
    )
    assert sdk.uploads.cancel(pending.id).status == "cancelled"


def test_a_file_over_the_limit_is_refused_with_the_settings_name(
    sdk: openai.OpenAI, limited: Settings
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.files.create(file=b"x" * (20 * MAX_BYTES), purpose="batch")
    assert (caught.value.status_code, caught.value.param) == (413, "file")
    assert "LOREHOUSE_MAX_FILE_BYTES" in caught.value.message
    assert sdk.files.create(file=b"x" * MAX_BYTES, purpose="batch").bytes == MAX_BYTES
    eventually(lambda: len(on_disk(limited)) == 1)


@pytest.mark.parametrize("length", ["content-length: 900000\r\n", "transfer-encoding: chunked\r\n"])
def test_a_client_that_stops_leaves_nothing_behind(
    sdk: openai.OpenAI, limited: Settings, length: str
) -> None:
    part = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = part + b"x" * 300_000
    chunked = length.startswith("transfer")
    with socket.create_connection((sdk.base_url.host, sdk.base_url.port or 0)) as client:
        client.sendall(
            f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {sdk.api_key}\r\n"
            f"content-type: multipart/form-data; boundary=xyz\r\n{length}\r\n".encode()
        )
        client.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n" if chunked else body)
        eventually(lambda: on_disk(limited))
    eventually(lambda: not on_disk(limited))
    assert sdk.files.list().data == []


def body_of(size: int) -> Iterator[bytes]:
    yield b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    for _ in range(size // 65536):
        yield b"\0" * 65536
    yield b"\r\n--xyz--\r\n"


@contextmanager
def _python_memory_at_most(limit: int) -> Iterator[None]:
    """Count what Python allocates in the server's thread and the test's."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit


def test_a_large_file_is_never_in_memory(settings: Settings) -> None:
    with serving(create_app(settings)) as url:
        headers = {
            "authorization": f"Bearer {key_of(url, ADMIN_KEY, 'acme')}",
            "content-type": "multipart/form-data; boundary=xyz",
        }
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            with _python_memory_at_most(FEW_BYTES):
                file = client.post("/v1/files", content=body_of(HUGE)).json()
            assert file["bytes"] == HUGE
            with (
                _python_memory_at_most(FEW_BYTES),
                client.stream("GET", f"/v1/files/{file['id']}/content") as content,
            ):
                assert sum(len(chunk) for chunk in content.iter_bytes()) == HUGE
