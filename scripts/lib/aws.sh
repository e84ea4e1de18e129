# shellcheck shell=bash disable=SC2034,SC2154  # shares variables with launch_gpu_instance.sh, named below
# EC2 through the AWS command line, version 1 or 2; to be sourced. Reads $region, $name, $subnet,
# $ranges, $dry_run and $work.

readonly TAG=arena-server # marks what is ours: its value is the instance's --name

say() { printf '%s\n' "$*"; }

# fail WHAT [HOW TO GO ON...]
fail() {
  { printf 'launch: %s\n' "$1"; shift; [ $# = 0 ] || printf '        %s\n' "$@"; } >&2
  exit 1
}

# ask SERVICE COMMAND...: a call that changes nothing
ask() {
  aws --region "$region" --output text "$@" 2>"$work/error" || aws_failed "$1 $2"
}

# change SERVICE COMMAND...: one that does; --dry-run only shows it, on file 3, as its output is often caught
change() {
  local word
  if $dry_run; then
    {
      printf '  would run: aws --region %s' "$region"
      for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then printf ' %s' "$word"; else printf " '%s'" "$word"; fi
      done
      printf '\n'
    } >&3
    return
  fi
  aws --region "$region" --output text "$@" 2>"$work/error" || aws_failed "$1 $2"
}

# aws_failed WHAT: AWS's own words, and what to do about the usual ones
aws_failed() {
  local words hint=''
  words=$(grep -v '^$' "$work/error" | tail -n 3)
  case $words in
    *VcpuLimitExceeded*) hint="Ask for a higher quota of \"Running On-Demand G and VT instances\" (Service Quotas, in vCPUs: 4 for a g4dn.xlarge)." ;;
    *InsufficientInstanceCapacity*) hint="There are none in this zone now: another one by --subnet, another --type, or later." ;;
    *UnauthorizedOperation* | *AccessDenied*) hint="These credentials may not do that: they need EC2 (instances, security groups, tags) and ssm:GetParameter." ;;
    *'locate credentials'* | *AuthFailure* | *ExpiredToken* | *InvalidClientTokenId*) hint="Set credentials: aws configure, aws sso login, or AWS_PROFILE." ;;
  esac
  fail "aws $1: $words" "${hint:-See the message above.}"
}

# waiting WHAT COMMAND...: runs it in the background, and says that it goes on; its status
waiting() {
  local what=$1 start=$SECONDS said=0 pid
  shift
  if $dry_run; then return 0; fi
  "$@" 2>"$work/error" &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [ -t 1 ]; then
      printf '\r\033[K  %s ... %d s' "$what" $((SECONDS - start))
    elif ((SECONDS - start >= said + 20)); then
      said=$((SECONDS - start))
      say "  $what ... $said s"
    fi
  done
  [ ! -t 1 ] || printf '\r\033[K'
  wait "$pid" || return 1
  say "  $what: $((SECONDS - start)) s"
}

await() { waiting "$2 is $1" aws --region "$region" ec2 wait "instance-$1" --instance-ids "$2" || aws_failed "ec2 wait"; }

# find_instance: sets $instance, $state and $network (its VPC); empty if there is none that lives
find_instance() {
  local found
  found=$(ask ec2 describe-instances --filters "Name=tag:$TAG,Values=$name" \
    Name=instance-state-name,Values=pending,running,stopping,stopped \
    --query 'Reservations[].Instances[].[InstanceId,State.Name,VpcId]')
  if [ "$(grep -c . <<<"$found")" -gt 1 ]; then
    fail "there are several instances with the tag $TAG=$name in $region: $(cut -f 1,2 <<<"$found" | tr '\t\n' ': ')" \
      "Terminate all but one by hand, or take another --name."
  fi
  read -r instance state network <<<"$found" || true
}

# find_groups [NETWORK]: sets $groups: of this network (VPC), or of all; empty if there is none
find_groups() {
  groups=$(ask ec2 describe-security-groups --filters "Name=tag:$TAG,Values=$name" ${1:+"Name=vpc-id,Values=$1"} \
    --query 'SecurityGroups[].GroupId')
}

# find_network: sets $network: the subnet's VPC, or the default one
find_network() {
  if [ -n "$subnet" ]; then
    network=$(ask ec2 describe-subnets --subnet-ids "$subnet" --query 'Subnets[0].VpcId')
  else
    network=$(ask ec2 describe-vpcs --filters Name=is-default,Values=true --query 'Vpcs[0].VpcId')
    [ "$network" != None ] || fail "$region has no default network (VPC)" "Say which subnet to take: --subnet subnet-..."
  fi
}

# make_group: in $network, as no instance can be in a group of another one; sets $group
make_group() {
  find_groups "$network"
  read -r group _ <<<"$groups" || true
  if [ -n "$group" ]; then return; fi
  say "making the security group $TAG-$name in $network"
  group=$(change ec2 create-security-group --group-name "$TAG-$name" --vpc-id "$network" \
    --description "arena-server $name: SSH and HTTPS for those who may" \
    --tag-specifications "ResourceType=security-group,Tags=[{Key=Name,Value=$name},{Key=$TAG,Value=$name}]" \
    --query GroupId)
  group=${group:-SECURITY-GROUP}
}

# open_ports: lets the given ranges in at ports 22 and 443, and nobody else; sets $newly_open
open_ports() {
  local rule protocol first last from port range rules='' open='' more=() fewer=()
  if [ "$group" != SECURITY-GROUP ]; then
    rules=$(ask ec2 describe-security-group-rules --filters "Name=group-id,Values=$group" --query \
      'SecurityGroupRules[?!IsEgress].[SecurityGroupRuleId, IpProtocol, FromPort, ToPort,
        CidrIpv4 || CidrIpv6 || PrefixListId || ReferencedGroupInfo.GroupId]')
  fi
  while read -r rule protocol first last from; do
    if [ -z "$rule" ]; then continue; fi
    if [[ $protocol == tcp && $first == "$last" && " 22 443 " == *" $first "* && " ${ranges[*]} " == *" $from "* ]]; then
      open+=" $first=$from "
    else
      say "shutting $from out ($(traffic "$protocol" "$first" "$last")): it is not in --cidr"
      fewer+=("$rule")
    fi
  done <<<"$rules"
  # By the rules' own ids: what somebody added may be of any kind. And before anybody is let in, as that may fail.
  if [ ${#fewer[@]} -gt 0 ]; then
    change ec2 revoke-security-group-ingress --group-id "$group" --security-group-rule-ids "${fewer[@]}" >/dev/null
  fi
  for port in 22 443; do
    for range in "${ranges[@]}"; do
      if [[ $open == *" $port=$range "* ]]; then continue; fi
      say "letting $range in at port $port"
      more+=("$(permission "$port" "$range")")
    done
  done
  newly_open=false
  if [ ${#more[@]} -gt 0 ]; then
    newly_open=true
    change ec2 authorize-security-group-ingress --group-id "$group" --ip-permissions "${more[@]}" >/dev/null
  fi
}

# traffic PROTOCOL FIRST LAST: a rule's, in words
traffic() {
  case $1 in
    -1) printf 'all traffic' ;;
    tcp | udp) if [ "$2" = "$3" ]; then printf '%s, port %s' "$1" "$2"; else printf '%s, ports %s-%s' "$@"; fi ;;
    *) printf '%s' "$1" ;;
  esac
}

# permission PORT RANGE: as the API wants it
permission() {
  local kind=IpRanges key=CidrIp
  if [[ $2 == *:* ]]; then kind=Ipv6Ranges key=CidrIpv6; fi
  printf 'IpProtocol=tcp,FromPort=%s,ToPort=%s,%s=[{%s=%s}]' "$1" "$1" "$kind" "$key" "$2"
}
