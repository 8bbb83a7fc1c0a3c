"""Sends to real sockets on loopback; names are looked up where the test says."""

import asyncio
import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service.webhooks.sender import NotSent, Resolve, Sender
from tests.fakes.receiver import Received, Receiver, answering, receiving

HEADERS = {"webhook-id": "evt_1"}


def names(*answers: Sequence[str]) -> tuple[Resolve, list[str]]:
    """Answer look-ups one after another; and note what was asked."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    return resolve, asked


async def refused(sender: Sender, url: str) -> str:
    with pytest.raises(NotSent) as fault:
        await sender.send(url, HEADERS, b"{}")
    return str(fault.value)


async def test_it_posts_what_it_is_given() -> None:
    async with receiving() as receiver:
        assert await Sender(private=True).send(receiver.url, HEADERS, b"body") == 204
    [got] = receiver.received
    assert (got.target, got.body) == ("/hook?from=lorehouse", b"body")
    assert got.headers["webhook-id"] == "evt_1"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_a_name_that_leads_inside_is_not_connected_to() -> None:
    async with receiving() as receiver:
        for address in ("127.0.0.1", "::ffff:127.0.0.1"):
            resolve, _ = names([address])
            sender = Sender(private=False, resolve=resolve)
            why = await refused(sender, f"https://inside.example:{receiver.port}/")
            assert why == "The host has no public address"
    assert not receiver.received


async def test_the_systems_own_names_are_looked_up_and_checked() -> None:
    sender = Sender(private=False)
    assert await refused(sender, "https://localhost/") == "The host has no public address"
    assert await refused(sender, "https://2130706433/") == "The host has no public address"
    assert await refused(sender, "https://0x7f.1/") == "The host has no public address"
    assert "does not resolve" in await refused(sender, "https://nowhere.invalid/")
    sender.close()


async def test_it_connects_to_the_address_that_was_checked_however_the_name_changes() -> None:
    async with receiving() as receiver:
        # The second look-up would lead elsewhere: there is none.
        resolve, asked = names(["169.254.169.254", "127.0.0.1"], ["169.254.169.254"])
        sender = Sender(private=True, resolve=resolve)
        assert await sender.send(f"http://moves.example:{receiver.port}/", HEADERS, b"") == 204
    assert asked == ["moves.example"]
    assert receiver.received[0].headers["host"] == f"moves.example:{receiver.port}"


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with receiving() as inside, receiving() as receiver:
        receiver.answer = answering(307, f"location: {inside.url}")
        assert await Sender(private=True).send(receiver.url, HEADERS, b"x") == 307
    assert not inside.received


async def test_a_slow_answer_is_not_waited_for_and_a_long_one_not_read() -> None:
    over = asyncio.Event()

    async def never(_: Received) -> bytes:
        await over.wait()
        return b""

    async def endless(_: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nand so on"

    async def headers_only(_: Received) -> bytes:
        return b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200_000

    async def nonsense(_: Received) -> bytes:
        return b"hello\r\n\r\n"

    sender = Sender(private=True, seconds=0.1)
    async with receiving(never) as receiver:
        assert "no answer within 0.1 seconds" in await refused(sender, receiver.url)
        over.set()
    patient = Sender(private=True)
    for answer in (headers_only, nonsense):
        async with receiving(answer) as receiver:
            assert await refused(patient, receiver.url) == "The answer was not HTTP"
    async with receiving(endless) as receiver:
        assert await patient.send(receiver.url, HEADERS, b"") == 200
    assert await refused(patient, receiver.url) == "The connection failed"


async def test_a_certificate_must_be_of_the_name_whatever_the_address(tmp_path: Path) -> None:
    certificate = a_certificate(tmp_path, "hooks.example")
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=inside)
    port = server.sockets[0].getsockname()[1]
    resolve, _ = names(["127.0.0.1"], ["127.0.0.1"])
    trust = ssl.create_default_context(cafile=certificate)
    sender = Sender(private=True, resolve=resolve, trust=trust)
    assert await sender.send(f"https://hooks.example:{port}/", HEADERS, b"x") == 204
    assert await refused(sender, f"https://other.example:{port}/") == "The connection failed"
    server.close()


def a_certificate(folder: Path, name: str) -> Path:
    """Make a self-signed certificate, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path
