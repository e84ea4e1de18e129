"""Fixtures of the scripts' tests."""

from __future__ import annotations

import contextlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.aws_cli import write_shim
from tests.scripts.aws_stand_in import KEYS, STAND_IN, client_of, started


@pytest.fixture(scope="package")
def aws() -> Iterator[Mapping[str, str]]:
    """The environment in which `aws` talks to the stand-in."""
    with tempfile.TemporaryDirectory(prefix="arena-aws-") as directory:
        path = Path(directory, "socket")
        write_shim(Path(directory), path)
        with started("-c", STAND_IN) as url, started("-m", "tests.scripts.aws_cli", str(path)):
            first = f"{directory}{os.pathsep}{os.environ['PATH']}"  # whatever else is called `aws` here
            yield {"PATH": first, "HOME": "/nonexistent", "AWS_ENDPOINT_URL": url, **KEYS}


@pytest.fixture
def ec2(aws: Mapping[str, str]) -> Iterator[Any]:
    """The stand-in's EC2, empty."""
    urllib.request.urlopen(urllib.request.Request(f"{aws['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")).close()
    with contextlib.closing(client_of("iam", aws)) as iam:
        iam.create_instance_profile(InstanceProfileName="arena")
    with contextlib.closing(client_of("ec2", aws)) as client:
        yield client
