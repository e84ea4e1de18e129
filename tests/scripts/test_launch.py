"""The AWS script against moto's stand-in for AWS, with the real command line between them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.aws_stand_in import (
    LAUNCH,
    MINE,
    PARAMETER,
    SOURCE,
    groups,
    instances,
    launch,
    openings,
    user_data,
)
from tests.scripts.run import run


def test_an_instance_is_launched_as_it_should_be(aws: Mapping[str, str], ec2: Any) -> None:
    other = "2001:db8::/48"
    (*rest, url, no_wait) = LAUNCH
    profile = ("--hf-token-parameter", "/arena/hf", "--instance-profile", "arena")
    said = launch({**aws, "HF_TOKEN": "hf_SECRET"}, *rest, f"{url}#v1.2", no_wait, "--cidr", other, *profile)
    (instance,) = instances(ec2)
    assert instance["InstanceType"] == "g4dn.xlarge"
    assert {t["Key"]: t["Value"] for t in instance["Tags"]} == {"Name": "vllm-arena", "arena-server": "vllm-arena"}
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    (volume,) = ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (150, "gp3", True)
    assert {t["Key"]: t["Value"] for t in volume["Tags"]}["arena-server"] == "vllm-arena"
    assert [g["GroupId"] for g in instance["SecurityGroups"]] == [g["GroupId"] for g in groups(ec2)]
    assert openings(ec2) == {(port, range_) for port in (22, 443) for range_ in (MINE, other)}
    assert instance["PublicIpAddress"] in said
    assert "--terminate --name vllm-arena --region eu-central-1" in said
    check_first_start(user_data(ec2, instance["InstanceId"]), other)


def check_first_start(script: str, other: str) -> None:
    """It fetches the source, asks for the token by its name, and runs the set-up; there is no secret in it."""
    assert "hf_SECRET" not in script
    assert "ssm get-parameter --name /arena/hf --with-decryption" in script
    assert f"git clone --quiet {SOURCE} /opt/vllm-arena/source" in script
    assert "checkout --quiet v1.2" in script
    assert script.rstrip().endswith(f"setup_vllm_multi_model.sh --allow {MINE} --allow {other}")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_run_again_it_finds_the_same_one_starts_it_and_opens_it_to_the_ranges_given_last(
    aws: Mapping[str, str], ec2: Any
) -> None:
    launch(aws, *LAUNCH)
    (first,) = instances(ec2)
    said = launch(aws, *LAUNCH)
    assert f"found {first['InstanceId']} (running)" in said
    assert "letting" not in said

    ec2.stop_instances(InstanceIds=[first["InstanceId"]])
    assert instances(ec2)[0]["State"]["Name"] == "stopped"
    assert "starting it" in launch(aws, "--cidr", "203.0.113.9/24", "--no-wait")
    (same,) = instances(ec2)
    assert (same["InstanceId"], same["State"]["Name"]) == (first["InstanceId"], "running")
    assert openings(ec2) == {(22, "203.0.113.0/24"), (443, "203.0.113.0/24")}


def test_it_waits_until_the_daemon_answers(aws: Mapping[str, str], ec2: Any, tmp_path: Path) -> None:
    curl = tmp_path / "curl"
    curl.write_text(f'#!/bin/bash\necho "$@" >>{tmp_path}/asked\necho \'{{"available_models":[]}}\'\n')
    curl.chmod(0o755)
    env = {**aws, "PATH": f"{tmp_path}{os.pathsep}{aws['PATH']}"}
    said = launch(env, *LAUNCH[:-1])
    (instance,) = instances(ec2)
    assert f"https://{instance['PublicIpAddress']}/health" in (tmp_path / "asked").read_text()
    assert f"https://{instance['PublicIpAddress']} answers" in said


def test_terminate_ends_the_named_one_leaves_nothing_of_it_and_may_be_repeated(
    aws: Mapping[str, str], ec2: Any
) -> None:
    launch(aws, *LAUNCH)
    launch(aws, *LAUNCH, "--name", "second")
    assert len(instances(ec2)) == 2
    launch(aws, "--terminate", "--name", "second")
    (left,) = instances(ec2)
    assert {"Key": "arena-server", "Value": "vllm-arena"} in left["Tags"]
    assert [g["GroupId"] for g in left["SecurityGroups"]] == [g["GroupId"] for g in groups(ec2)]
    assert len(ec2.describe_volumes()["Volumes"]) == 1
    assert "there is no instance second in eu-central-1" in launch(aws, "--terminate", "--name", "second")


def test_a_dry_run_prints_the_commands_and_changes_nothing(aws: Mapping[str, str], ec2: Any) -> None:
    said = launch(aws, *LAUNCH, "--dry-run")
    ran = [line.split()[6] for line in said.splitlines() if line.startswith("  would run: aws --region")]
    assert ran == ["create-security-group", "authorize-security-group-ingress", "run-instances"]
    assert "    | #!/bin/bash" in said
    assert (instances(ec2), groups(ec2)) == ([], [])

    launch(aws, *LAUNCH)
    (instance,) = instances(ec2)
    ec2.stop_instances(InstanceIds=[instance["InstanceId"]])
    said = launch(aws, "--cidr", "203.0.113.9", "--dry-run")
    assert "start-instances" in said
    assert "revoke-security-group-ingress" in said
    assert "terminate-instances" in launch(aws, "--terminate", "--dry-run")
    assert instances(ec2)[0]["State"]["Name"] == "stopped"
    assert openings(ec2) == {(22, MINE), (443, MINE)}


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/4", "2000::/3"])
def test_an_open_range_is_refused_before_aws_is_asked(cidr: str) -> None:
    done = run("launch_gpu_instance.sh", *LAUNCH, "--cidr", cidr, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--cidr {cidr} would open it to (nearly) everybody" in done.stderr


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "--cidr is needed"),
        (["--cidr", "everybody"], "no address range"),
        (["--cidr", MINE, "--volume-gib", "20"], "too few"),
        (["--cidr", MINE, "--name", "a b"], "--name"),
        (["--cidr", MINE, "--hf-token-parameter", "/arena/hf"], "needs --instance-profile"),
        (["--cidr"], "needs a value"),
    ],
)
def test_a_wrong_command_line_is_told_before_aws_is_asked(args: list[str], why: str) -> None:
    done = run("launch_gpu_instance.sh", *args, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


@pytest.mark.parametrize(
    "source",
    ["https://me:password@example.com/a", "git@example.com:a", "https://example.com/a; reboot", "https://a/b#x y"],
)
def test_a_source_that_the_instance_cannot_or_must_not_use_is_refused(
    aws: Mapping[str, str], ec2: Any, source: str
) -> None:
    assert "--source" in launch(aws, "--cidr", MINE, "--ami", PARAMETER, "--source", source, status=1)
    assert groups(ec2) == []


def test_what_aws_refuses_is_told_in_its_words(aws: Mapping[str, str], ec2: Any) -> None:
    said = launch(aws, "--cidr", MINE, "--ami", "ami-0123456789abcdef0", "--source", SOURCE, status=1)
    assert "aws ec2 describe-images" in said
    assert "ami-0123456789abcdef0" in said
    keyless = {name: value for name, value in aws.items() if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    said = launch({**keyless, "AWS_EC2_METADATA_DISABLED": "true"}, *LAUNCH, status=1)
    assert "aws configure" in said
    assert instances(ec2) == []


@pytest.mark.parametrize("kind", ["g6e.xlarge", "p4d.24xlarge"])
def test_cards_whose_models_need_a_token_are_refused_without_one_before_anything_is_made(
    aws: Mapping[str, str], ec2: Any, kind: str
) -> None:
    said = launch(aws, *LAUNCH[:-1], "--type", kind, status=1)
    assert "Llama 3.1" in said
    assert "--hf-token-parameter" in said
    assert "--no-wait" in said
    assert (instances(ec2), groups(ec2)) == ([], [])


def test_without_waiting_or_with_a_token_such_cards_are_taken(aws: Mapping[str, str], ec2: Any) -> None:
    said = launch(aws, *LAUNCH, "--type", "g6e.xlarge")
    assert "the set-up will stop" in said
    assert instances(ec2)[0]["InstanceType"] == "g6e.xlarge"
    profile = ("--hf-token-parameter", "/arena/hf", "--instance-profile", "arena")
    said = launch(aws, *LAUNCH[:-1], "--type", "g6e.xlarge", "--name", "second", *profile, "--dry-run")
    assert "the set-up will stop" not in said


def test_a_type_without_a_card_is_refused(aws: Mapping[str, str], ec2: Any) -> None:
    assert "t3.micro has no NVIDIA card" in launch(aws, *LAUNCH, "--type", "t3.micro", status=1)
    assert groups(ec2) == []
