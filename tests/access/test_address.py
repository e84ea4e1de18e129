"""What an address is counted as, and whether other machines can reach it."""

from __future__ import annotations

import pytest

from arena_server.access.address import counted, is_loopback


@pytest.mark.parametrize(
    ("address", "as_"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("", ""),
        ("unknown", ""),
        ("x" * 100_000, ""),
        ("192.0.2.7, 1.1.1.1", ""),
    ],
)
def test_an_address_is_counted_as_one_and_an_ipv6_one_as_its_network(address: str, as_: str) -> None:
    assert counted(address) == as_


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_only_this_machine_reaches(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "::ffff:0.0.0.0", "192.0.2.7", "localhost", ""])
def test_others_may_reach(address: str) -> None:
    assert not is_loopback(address)
