"""moto's stand-in for AWS, and the launch script run against it with the real command line between them."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import boto3  # type: ignore[import-untyped]

from tests.scripts.run import ROOT, run

# Of the images that moto knows, one that it names in a public parameter, as AWS does ours.
PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
SOURCE = "https://example.com/arena-server.git"
MINE = "198.51.100.7/32"
LAUNCH = ("--cidr", MINE, "--ami", PARAMETER, "--source", SOURCE, "--no-wait")
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "eu-central-1"}


@contextlib.contextmanager
def started(*args: str) -> Iterator[str]:
    """Python in a process of its own, which has said something: this yields it."""
    process = subprocess.Popen(
        [sys.executable, *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait()


# In a process of its own: it patches boto3 and leaves threads.
STAND_IN = """
import signal
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
signal.pause()
"""


def client_of(service: str, aws: Mapping[str, str]) -> Any:
    """A client of the stand-in."""
    return boto3.client(
        service,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def launch(aws: Mapping[str, str], *args: str, status: int = 0) -> str:
    """Run the script; returns what it said."""
    done = run("launch_gpu_instance.sh", *args, env=aws)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def instances(ec2: Any) -> list[dict[str, Any]]:
    """Those that are not gone."""
    reservations = ec2.describe_instances()["Reservations"]
    found = [instance for reservation in reservations for instance in reservation["Instances"]]
    return [i for i in found if i["State"]["Name"] not in ("terminated", "shutting-down")]


def groups(ec2: Any) -> list[dict[str, Any]]:
    """The security groups that the script made."""
    found: list[dict[str, Any]] = ec2.describe_security_groups(
        Filters=[{"Name": "tag-key", "Values": ["arena-server"]}]
    )["SecurityGroups"]
    return found


def openings(ec2: Any) -> set[tuple[int, str]]:
    """Ports and ranges that are open."""
    (group,) = groups(ec2)
    return {
        (permission["FromPort"], name)
        for permission in group["IpPermissions"]
        for name in [
            *(r["CidrIp"] for r in permission["IpRanges"]),
            *(r["CidrIpv6"] for r in permission["Ipv6Ranges"]),
        ]
        if permission["FromPort"] == permission["ToPort"] and permission["IpProtocol"] == "tcp"
    }


def user_data(ec2: Any, instance: str) -> str:
    """What the instance runs at its first start."""
    value = ec2.describe_instance_attribute(InstanceId=instance, Attribute="userData")["UserData"]["Value"]
    return base64.b64decode(value).decode()
