"""Address ranges in IPv6, as the scripts read them, against Python's own reading."""

from __future__ import annotations

import ipaddress
import random
import subprocess

import pytest

from tests.scripts.run import ROOT

MALFORMED = [
    ":::",
    "1::::::::",
    "1:::2",
    "::1::",
    "12345::/64",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1::2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7:8::",
    ":1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:",
    "1::2:",
    "g::",
    "fe80::1%eth0",
]


def networks(ranges: list[str]) -> list[str]:
    """What `cidr_network` prints of each, in one shell; "refused" where it refuses."""
    code = 'set -euo pipefail; . "$0/scripts/lib/cidr.sh"; for r in "$@"; do cidr_network "$r" || echo refused; done'
    done = subprocess.run(["bash", "-c", code, ROOT, *ranges], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_an_ipv6_range_is_printed_in_its_one_short_form_without_bits_beyond_its_length() -> None:
    seed = random.Random(5)
    given = ["2001:DB8:1:2::5/64", "::", "::/0", "1::", "0:0:1:0:0:0:0:1", "1:0:2:3:4:5:6:7", "1::2:3:4:5:6:7/113"]
    for length in range(129):
        groups = [seed.choice((0, 0, 1, 0xFFFF, seed.getrandbits(16))) for _ in range(8)]
        address = ipaddress.IPv6Address(sum(group << 16 * place for place, group in enumerate(groups)))
        given.append(f"{seed.choice((address.compressed.upper(), address.exploded))}/{length}")
    assert networks(given) == [str(ipaddress.ip_network(range_, strict=False)) for range_ in given]


@pytest.mark.parametrize("given", MALFORMED)
def test_what_python_refuses_is_refused(given: str) -> None:
    assert networks([given, "::1"]) == ["refused", "::1/128"]
    code = '. "$0/scripts/lib/cidr.sh"; cidr_prefix "$1"'
    done = subprocess.run(["bash", "-c", code, ROOT, given], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
