"""The launch script's security group: who is let in, and in which network it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.scripts.aws_stand_in import LAUNCH, MINE, groups, instances, launch, openings

HTTPS_FOR_ME = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": MINE}]}
THEIRS = [{"CidrIp": "203.0.113.0/24"}]


def allow(ec2: Any, *permissions: Mapping[str, Any]) -> None:
    """Add rules to the one group, as somebody does by hand."""
    (group,) = groups(ec2)
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=list(permissions))


def rules(ec2: Any) -> list[dict[str, Any]]:
    """Who may come in, of the one group."""
    (group,) = groups(ec2)
    found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group["GroupId"]]}])
    return [rule for rule in found["SecurityGroupRules"] if not rule["IsEgress"]]


def network(ec2: Any) -> tuple[str, str]:
    """A network beside the default one, and a subnet in it."""
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    return vpc, ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]


def test_whatever_else_is_open_in_its_group_is_shut_whoever_opened_it(aws: Mapping[str, str], ec2: Any) -> None:
    launch(aws, *LAUNCH)
    kept = {rule["SecurityGroupRuleId"] for rule in rules(ec2)}
    other = ec2.create_security_group(GroupName="other", Description="of somebody")["GroupId"]
    prefixes = ec2.create_managed_prefix_list(PrefixListName="p", MaxEntries=1, AddressFamily="IPv4")["PrefixList"]
    allow(
        ec2,
        {"IpProtocol": "-1", "IpRanges": THEIRS},
        {"IpProtocol": "tcp", "FromPort": 9000, "ToPort": 9100, "IpRanges": [{"CidrIp": MINE}]},
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 443, "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/48"}]},
        {"IpProtocol": "udp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": MINE}]},
        {"IpProtocol": "tcp", "FromPort": 8000, "ToPort": 8000, "IpRanges": [{"CidrIp": MINE}]},
        {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": THEIRS},
        {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "UserIdGroupPairs": [{"GroupId": other}]},
        {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "PrefixListIds": [{"PrefixListId": prefixes["PrefixListId"]}],
        },
    )
    assert len(rules(ec2)) == len(kept) + 8
    assert "revoke-security-group-ingress" in launch(aws, *LAUNCH, "--dry-run")
    assert len(rules(ec2)) == len(kept) + 8
    said = launch(aws, *LAUNCH)
    assert {rule["SecurityGroupRuleId"] for rule in rules(ec2)} == kept  # and not taken out and put back
    for line in (
        "shutting 203.0.113.0/24 out (all traffic)",
        f"shutting {MINE} out (tcp, ports 9000-9100)",
        f"shutting {other} out (tcp, port 443)",
        f"shutting {prefixes['PrefixListId']} out (tcp, port 22)",
        "shutting 203.0.113.0/24 out (icmp)",
    ):
        assert line in said
    assert "shutting" not in launch(aws, *LAUNCH)


def test_a_rule_taken_out_comes_back_and_what_was_too_wide_is_shut_first(aws: Mapping[str, str], ec2: Any) -> None:
    launch(aws, *LAUNCH)
    (group,) = groups(ec2)
    ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[HTTPS_FOR_ME])
    allow(ec2, {"IpProtocol": "-1", "IpRanges": THEIRS})
    said = launch(aws, *LAUNCH)
    assert openings(ec2) == {(22, MINE), (443, MINE)}
    assert len(rules(ec2)) == 2
    assert said.index("shutting") < said.index(f"letting {MINE} in at port 443")


def test_one_range_in_several_spellings_is_one_rule(aws: Mapping[str, str], ec2: Any) -> None:
    launch(aws, *LAUNCH, "--cidr", "2001:DB8:1:2::5/64", "--cidr", "2001:db8:1:2:0::/64", "--cidr", "198.51.100.7")
    ranges = (MINE, "2001:db8:1:2::/64")
    assert openings(ec2) == {(port, range_) for port in (22, 443) for range_ in ranges}
    said = launch(aws, *LAUNCH, "--cidr", "2001:0db8:0001:0002::/64")
    assert ("letting" in said, "shutting" in said) == (False, False)


def test_a_group_left_in_another_network_is_not_taken_and_goes_at_the_end(aws: Mapping[str, str], ec2: Any) -> None:
    vpc, subnet = network(ec2)
    launch(aws, *LAUNCH)
    ec2.terminate_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])  # by hand: the group stays
    launch(aws, *LAUNCH, "--subnet", subnet)
    (instance,) = instances(ec2)
    where = {group["GroupId"]: group["VpcId"] for group in groups(ec2)}
    assert [where[group["GroupId"]] for group in instance["SecurityGroups"]] == [vpc]
    assert len(where) == 2

    # Found again without --subnet, it is its own group that is opened, and not the one in the default network.
    launch(aws, "--cidr", "203.0.113.9", "--no-wait")
    (own,) = (group for group in groups(ec2) if group["VpcId"] == vpc)
    assert {range_["CidrIp"] for rule in own["IpPermissions"] for range_ in rule["IpRanges"]} == {"203.0.113.9/32"}
    assert len(groups(ec2)) == 2

    launch(aws, "--terminate")
    assert (instances(ec2), groups(ec2)) == ([], [])
