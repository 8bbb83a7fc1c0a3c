"""The socket on which the runtime answers, and its client: in this process, then a real one."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.errors import BadRequest, EngineBusy, EngineUnavailable
from service.runtime import client
from service.runtime.client import RemoteEngine
from service.runtime.messages import MAX_FRAME, AskStatus, Generate, frame
from service.runtime.server import EngineServer
from service.serving.engine import EngineStatus, GenerationRequest, Piece, Sampling
from service.settings import Settings
from tests.fakes.engine import FakeEngine


def a_request(max_tokens: int = 5, prompt: int = 300, revision=None) -> GenerationRequest:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    return GenerationRequest(id="gen-1", revision=revision, prompt=[prompt] * 3, sampling=sampling)


def endless(request: GenerationRequest, index: int) -> str:
    return "word " * 2000


@asynccontextmanager
async def served(engine: FakeEngine, path: Path, **limits: int) -> AsyncIterator[EngineServer]:
    server = EngineServer(engine, path, **limits)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.0)


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[RemoteEngine]:
    remote = RemoteEngine(path)
    try:
        yield remote
    finally:
        await remote.close()


async def pieces_of(engine: RemoteEngine, request: GenerationRequest) -> list[Piece]:
    return [piece async for piece in engine.generate(request)]


async def text_of(engine: RemoteEngine, request: GenerationRequest) -> str:
    return "".join(piece.text for piece in await pieces_of(engine, request))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "generation.sock"


async def test_many_requests_share_one_connection(path: Path) -> None:
    engine = FakeEngine()
    async with served(engine, path) as server, connected(path) as remote:
        asked = [a_request(max_tokens=9, prompt=n) for n in range(100)]
        texts = await asyncio.gather(*(text_of(remote, request) for request in asked))
        assert len(set(texts)) == 100
        assert texts[7] == await text_of(remote, asked[7])
        assert len(server._talks) == 1


async def test_pieces_are_passed_on_as_they_come(path: Path) -> None:
    engine = FakeEngine(answer=endless)
    async with served(engine, path), connected(path) as remote:
        stream = remote.generate(a_request(max_tokens=2000))
        assert (await anext(stream)).text.startswith("word")
        engine.pause()
        await engine.wait_until(running=1)
        engine.resume()
        assert [piece async for piece in stream][-1].finish_reason == "length"


async def test_who_falls_behind_catches_up_with_fewer_pieces(path: Path) -> None:
    engine = FakeEngine(answer=endless)
    async with served(engine, path), connected(path) as remote:
        request = a_request(max_tokens=50)
        direct = [piece async for piece in engine.generate(request)]
        stream = remote.generate(request)
        begin = await anext(stream)
        await engine.wait_until(running=0)
        # Round the loop until the last word is here as well.
        await remote.status()
        rest = [piece async for piece in stream]
        assert len(rest) == 1
        assert begin.text + rest[0].text == "".join(piece.text for piece in direct)
        assert (rest[0].tokens, rest[0].finish_reason) == (50, "length")


async def test_errors_cross_the_socket_as_what_they_are(path: Path) -> None:
    async with served(FakeEngine(context_length=10), path), connected(path) as remote:
        with pytest.raises(BadRequest) as caught:
            await text_of(remote, a_request(max_tokens=20))
        error = caught.value
        assert (error.param, error.code) == ("max_tokens", "context_length_exceeded")
        assert "10 tokens" in error.message


async def test_a_fault_of_the_engine_is_unavailability_and_stays_with_its_request(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(request: GenerationRequest, index: int) -> str:
        return "fine" if request.prompt[0] else str(1 / 0)

    async with served(FakeEngine(answer=faulty), path), connected(path) as remote:
        with pytest.raises(EngineUnavailable):
            await text_of(remote, a_request(prompt=0))
        assert await text_of(remote, a_request(prompt=1)) == "fine"


async def test_a_dropped_connection_cancels_its_requests_and_no_others(path: Path) -> None:
    engine = FakeEngine(answer=endless)
    async with served(engine, path), connected(path) as other:
        engine.pause()
        dropped = RemoteEngine(path)
        asking = [
            asyncio.create_task(text_of(remote, a_request(max_tokens=50, prompt=n)))
            for n, remote in enumerate([dropped, dropped, other])
        ]
        await engine.wait_until(running=3)
        await dropped.close()
        await engine.wait_until(running=1)
        engine.resume()
        lost, lost_too, whole = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(lost, EngineUnavailable)
        assert isinstance(lost_too, EngineUnavailable)
        assert whole.count("word") == 50


async def test_without_a_runtime_requests_fail_at_once(path: Path) -> None:
    async with connected(path) as remote:
        with pytest.raises(EngineUnavailable):
            await remote.status()
        with pytest.raises(EngineUnavailable):
            await text_of(remote, a_request())


async def test_a_socket_that_a_dead_runtime_left_behind_is_no_runtime(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with connected(path) as remote:
        with pytest.raises(EngineUnavailable):
            await remote.status()


async def test_when_the_runtime_dies_requests_fail_and_the_next_ones_reconnect(path: Path) -> None:
    async with connected(path) as remote:
        engine = FakeEngine()
        async with served(engine, path):
            engine.pause()
            asking = [asyncio.create_task(text_of(remote, a_request(prompt=n))) for n in range(3)]
            await engine.wait_until(running=3)
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(outcome, EngineUnavailable)
        with pytest.raises(EngineUnavailable):
            await remote.status()
        async with served(FakeEngine(), path):
            assert await text_of(remote, a_request())


async def test_stopping_lets_what_is_under_way_finish_and_takes_nothing_new(path: Path) -> None:
    engine = FakeEngine(answer=endless)
    async with served(engine, path) as server, connected(path) as remote:
        engine.pause()
        asking = asyncio.create_task(text_of(remote, a_request(max_tokens=30)))
        await engine.wait_until(running=1)
        stopping = asyncio.create_task(server.stop(30.0))
        await asyncio.sleep(0)
        with pytest.raises(EngineUnavailable):
            await text_of(remote, a_request())
        engine.resume()
        assert (await asking).count("word") == 30
        await stopping
    assert not list(path.parent.iterdir())


async def test_a_reader_that_does_not_read_is_dropped_and_its_requests_cancelled(
    path: Path,
) -> None:
    engine = FakeEngine(answer=endless)
    async with served(engine, path, max_unread=2000), connected(path) as other:
        _, writer = await asyncio.open_unix_connection(str(path), limit=1)
        for call in range(40):
            writer.write(frame(Generate(call, a_request(max_tokens=1900))))
        assert (await text_of(other, a_request())).startswith("word")
        await engine.wait_until(running=0)
        assert engine.cancelled
        writer.close()


async def test_a_runtime_that_does_not_read_is_asked_for_no_more(path: Path) -> None:
    path.parent.mkdir(parents=True)
    asleep = asyncio.Event()

    async def sleep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asleep.wait()
        writer.close()

    server = await asyncio.start_unix_server(sleep, path)
    async with connected(path) as remote:
        large = replace(a_request(), prompt=[70_000] * 1_000_000)
        asked = [asyncio.create_task(pieces_of(remote, large)) for _ in range(5)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert {type(one.exception()) for one in done} == {EngineBusy}
        assert waiting
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        asleep.set()
        server.close()


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\0\0\0\2{}", (MAX_FRAME + 1).to_bytes(4, "big")]
)
async def test_garbage_ends_its_own_connection_only(path: Path, garbage: bytes) -> None:
    async with served(FakeEngine(), path), connected(path) as other:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(garbage)
        assert await reader.read() == b""
        writer.close()
        assert (await other.status()).ready


async def test_an_engine_that_does_not_answer_has_no_status(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(FakeEngine):
        async def status(self) -> EngineStatus:
            return await asyncio.Event().wait()  # type: ignore[return-value]

    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.01)
    async with served(Deaf(), path), connected(path) as remote:
        with pytest.raises(EngineUnavailable):
            await remote.status()


async def test_the_sockets_folder_is_closed_to_others(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    async with served(FakeEngine(), path):
        assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_path_may_be_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40) / "run" / "generation.sock"
    async with served(FakeEngine(), path), connected(path) as remote:
        assert path.is_socket()
        assert (await remote.status()).ready


def test_frames_carry_any_request() -> None:
    whole = frame(AskStatus(1))
    assert int.from_bytes(whole[:4], "big") == len(whole) - 4


# From here on: the real process on the bundled base.


@asynccontextmanager
async def runtime(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the process, wait for its socket, and leave none behind."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "LOREHOUSE_DATA_DIR": str(settings.data_dir),
        "LOREHOUSE_QUANTIZATION": "none",
        "LOREHOUSE_LOG_LEVEL": "warning",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "runtime", "generation", env=environment
    )
    try:
        while not settings.generation_socket.exists():
            assert process.returncode is None, "the runtime did not start"
            await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.torch
async def test_a_killed_process_fails_its_requests_and_the_next_one_answers_until_told_to_end(
    settings: Settings,
) -> None:
    async with connected(settings.generation_socket) as remote:
        async with runtime(settings) as process:
            whole = await text_of(remote, a_request(max_tokens=20))
            streams = [remote.generate(a_request(max_tokens=1500)) for _ in range(4)]
            await asyncio.gather(*(anext(stream) for stream in streams))
            process.kill()
            for stream in streams:
                with pytest.raises(EngineUnavailable):
                    async for _ in stream:
                        pass
            with pytest.raises(EngineUnavailable):
                await remote.status()
        settings.generation_socket.unlink()
        async with runtime(settings) as process:
            assert await text_of(remote, a_request(max_tokens=20)) == whole
            stream = remote.generate(a_request(max_tokens=40))
            first = await anext(stream)
            process.send_signal(signal.SIGTERM)
            last = [first, *[piece async for piece in stream]][-1]
            assert last.finish_reason in {"stop", "length"}
            assert await process.wait() == 0
            assert not settings.generation_socket.exists()
