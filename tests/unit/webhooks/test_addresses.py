"""Where webhooks may go."""

import pytest

from service.webhooks.addresses import BadUrl, destination, may_reach

NEVER = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
    "::ffff:0.0.0.0",
    "240.0.0.1",
    "255.255.255.255",
    "fec0::1",
]
PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "::ffff:192.168.1.1",
    "2002:c0a8:101::1",
    "100.64.0.1",
    "fd12::1",
    "192.0.2.1",
]
PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_reached_by_nobody(address: str) -> None:
    assert not may_reach(address, private=False)
    assert not may_reach(address, private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_reached_where_that_is_allowed(address: str) -> None:
    assert not may_reach(address, private=False)
    assert may_reach(address, private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    assert may_reach(address, private=False)


@pytest.mark.parametrize(
    ("url", "authority", "port", "target"),
    [
        ("https://example.com", "example.com", 443, "/"),
        ("https://Example.com:8443/a/b?c=d&e", "example.com:8443", 8443, "/a/b?c=d&e"),
        ("https://[2606:4700::1111]/x", "[2606:4700::1111]", 443, "/x"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/"),
    ],
)
def test_a_url_is_taken_apart(url: str, authority: str, port: int, target: str) -> None:
    there = destination(url, private=False)
    assert (there.authority, there.port, there.target) == (authority, port, target)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "ftp://example.com",
        "//example.com",
        "example.com",
        "https://",
        "https:///path",
        "https://user@example.com",
        "https://user:word@example.com",
        "https://:@example.com",
        "https://example.com\\@10.0.0.1/",
        "https://example.com/#part",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://example.com:x/",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https://bücher.example/",
        "https://[::1",
        "https://[fe80::1%25eth0]/",
        "https://10.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://example.com/" + "x" * 2048,
    ],
)
def test_what_could_lead_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        destination(url, private=False)


def test_in_an_intranet_plain_http_is_good_enough() -> None:
    assert destination("http://10.0.0.1/", private=True).port == 80
    with pytest.raises(BadUrl):
        destination("http://169.254.169.254/", private=True)
