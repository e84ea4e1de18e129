#!/usr/bin/env bash
# A GPU instance on AWS with arena-server on it: finds the one it launched before, starts it if it was stopped, or launches
# it. Its costs run until --terminate (or until it is stopped; then the disk's alone).
set -euo pipefail

usage() {
  cat <<'END'
Usage: launch_gpu_instance.sh --cidr CIDR [options]
       launch_gpu_instance.sh --terminate [--name NAME] [--region REGION]

  --cidr CIDR              who may reach it, by SSH and HTTPS (may be repeated): your own address, say 198.51.100.7/32
  --region REGION          (the AWS command line's own)
  --name NAME              of this instance, in its tags (vllm-arena)
  --type TYPE              (g4dn.xlarge: one T4 of 16 GB)
  --key-name NAME          of the EC2 key pair for SSH
  --volume-gib N           size of its disk, encrypted gp3 (150)
  --subnet ID              (the default network's)
  --ami ID|PARAMETER       image, or the SSM parameter that names it (AWS's Deep Learning Base GPU image, Ubuntu 24.04)
  --source URL[#REF]       where it fetches arena-server from by git (this checkout's origin)
  --hf-token-parameter P   SSM parameter (SecureString) that holds the Hugging Face token; with --instance-profile
  --instance-profile NAME  IAM instance profile; must allow ssm:GetParameter of P, and kms:Decrypt if P has a key of its own
  --no-wait                do not wait until arena-server answers
  --dry-run                print the aws commands that would change something, and change nothing
  --terminate              end the instance, its disk and its security groups
  --help                   this text

A Hugging Face token never goes into the user data, which everybody may read who can describe the instance. For cards of
40 GB and more it is needed: give it by --hf-token-parameter, or with --no-wait on the instance afterwards (what to type is
said at the end). Its security group lets nobody in but --cidr: rules that others added to it are taken out.
END
}

scripts=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=scripts/lib/cidr.sh
. "$scripts/lib/cidr.sh"
# shellcheck source=scripts/lib/aws.sh
. "$scripts/lib/aws.sh"

readonly IMAGE=/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id
readonly SOURCE=/opt/vllm-arena/source LOG=/var/log/vllm-arena-launch.log
readonly READY_LIMIT_S=5400 # drivers' first start, several GB of packages, tens of GB of weights

wrong() { printf 'launch: %s (see --help)\n' "$*" >&2; exit 2; }

region=${AWS_REGION:-${AWS_DEFAULT_REGION:-}} name=vllm-arena type=g4dn.xlarge key_name='' volume_gib=150 subnet='' image=$IMAGE
source_url='' token_parameter='' profile=''
dry_run=false terminate=false wait_ready=true
ranges=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --dry-run) dry_run=true; shift; continue ;;
    --terminate) terminate=true; shift; continue ;;
    --no-wait) wait_ready=false; shift; continue ;;
    --cidr | --region | --name | --type | --key-name | --volume-gib | --subnet | --ami | --source | \
      --hf-token-parameter | --instance-profile) ;;
    *) wrong "unknown option $1" ;;
  esac
  [ -n "${2:-}" ] || wrong "$1 needs a value"
  case $1 in
    --cidr) range=$(cidr_network "$2") || wrong "--cidr: $2 is no address range such as 198.51.100.7/32"
      # AWS refuses a list in which one is twice.
      [[ " ${ranges[*]-} " == *" $range "* ]] || ranges+=("$range") ;;
    --region) region=$2 ;;
    --name) name=$2 ;;
    --type) type=$2 ;;
    --key-name) key_name=$2 ;;
    --volume-gib) volume_gib=$2 ;;
    --subnet) subnet=$2 ;;
    --ami) image=$2 ;;
    --source) source_url=$2 ;;
    --hf-token-parameter) token_parameter=$2 ;;
    --instance-profile) profile=$2 ;;
  esac
  shift 2
done

[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$ ]] || wrong "--name: letters, digits and . _ - only, not $name"
[[ $volume_gib =~ ^[0-9]{2,5}$ ]] || wrong "--volume-gib must be a number of GiB, 60 or more, not $volume_gib"
((volume_gib >= 60)) || wrong "--volume-gib: $volume_gib GiB are too few for vLLM and the weights (60 or more)"
[[ -z $token_parameter || $token_parameter =~ ^[A-Za-z0-9/._-]+$ ]] || wrong "--hf-token-parameter: $token_parameter is no name of a parameter"
[ -z "$token_parameter" ] || [ -n "$profile" ] || wrong "--hf-token-parameter needs --instance-profile: without it the instance may not read it"
if ! $terminate; then
  [ ${#ranges[@]} -gt 0 ] || wrong "--cidr is needed: who may reach it? Only you: --cidr YOUR.PUBLIC.IP.ADDRESS/32"
  for range in "${ranges[@]}"; do
    # Nobody is asked for a key before there is one, which is made after this: whoever reaches it uses the card.
    if [[ $range == *:* ]]; then narrowest=32; else narrowest=8; fi
    ((${range#*/} >= narrowest)) || wrong "--cidr $range would open it to (nearly) everybody, and nobody is asked for a key before you have made one. \
Give your own address (/32), your office's or your VPC's range; /$narrowest is the widest"
  done
fi
command -v aws >/dev/null || fail "the AWS command line is missing" "https://aws.amazon.com/cli, or: pip install awscli"
export AWS_PAGER=''
region=${region:-$(aws configure get region || true)}
[ -n "$region" ] || wrong "which --region? (or: aws configure set region eu-central-1)"

work=$(mktemp -d)
# shellcheck disable=SC2046  # numbers
trap 'rm -rf "$work"; kill $(jobs -p) 2>/dev/null || true' EXIT
exec 3>&1
setup="$SOURCE/scripts/setup_vllm_multi_model.sh"
for range in ${ranges[@]+"${ranges[@]}"}; do setup+=" --allow $range"; done

# --- the end of it

end_all() {
  local group
  find_instance
  find_groups
  if [ -z "$instance$groups" ]; then
    say "there is no instance $name in $region, and nothing is left of one"
    return
  fi
  if [ -n "$instance" ]; then
    say "terminating $instance ($state), its disk too"
    change ec2 terminate-instances --instance-ids "$instance" >/dev/null
    await terminated "$instance"
  fi
  for group in $groups; do
    say "removing the security group $group"
    change ec2 delete-security-group --group-id "$group" >/dev/null
  done
}

# --- a new one

# where_from: the checkout's origin, unless --source says otherwise; sets $source_url and $source_ref
where_from() {
  if [ -z "$source_url" ]; then
    source_url=$(git -C "$scripts" remote get-url origin 2>/dev/null) ||
      fail "this checkout has no origin" "Say where the instance fetches arena-server from: --source https://host/owner/arena-server.git"
    # The instance has nobody's SSH key.
    if [[ $source_url =~ ^(ssh://)?git@([^:/]+)[:/](.+)$ ]]; then source_url=https://${BASH_REMATCH[2]}/${BASH_REMATCH[3]}; fi
  fi
  source_ref=''
  if [[ $source_url == *'#'* ]]; then source_ref=${source_url##*#} source_url=${source_url%#*}; fi
  [[ $source_url =~ ^https://[A-Za-z0-9._:/~-]+$ ]] ||
    fail "--source: the instance cannot fetch $source_url" "It must be https://..., without a password in it: user data is no place for secrets."
  [[ $source_ref =~ ^[A-Za-z0-9._/-]*$ ]] || fail "--source: $source_ref is no branch, tag or commit"
}

# user_data: what the instance does at its first start, as root
user_data() {
  cat <<END
#!/bin/bash
# By cloud-init, at the first start; its output is in $LOG.
set -euo pipefail
exec > >(tee -a $LOG) 2>&1
export HOME=/root DEBIAN_FRONTEND=noninteractive
trap 'echo "arena-server: the set-up FAILED; see above, and run again: $setup"' ERR
command -v git >/dev/null || { apt-get -q -o DPkg::Lock::Timeout=600 update; apt-get -q -o DPkg::Lock::Timeout=600 install -y git; }
[ -d $SOURCE ] || git clone --quiet $source_url $SOURCE
END
  [ -z "$source_ref" ] || printf 'git -C %s checkout --quiet %s\n' "$SOURCE" "$source_ref"
  if [ -n "$token_parameter" ]; then
    printf 'command -v aws >/dev/null || snap install aws-cli --classic\n'
    # shellcheck disable=SC2016  # expanded there
    printf 'HF_TOKEN=$(aws --region %s ssm get-parameter --name %s --with-decryption --query Parameter.Value --output text)\n' \
      "$region" "$token_parameter"
    printf 'export HF_TOKEN\n'
  fi
  printf '%s\n' "$setup"
}

# check_card: what the set-up would stop at in its first step is said now, and not waited for
check_card() {
  local about maker mib card what
  about=$(ask ec2 describe-instance-types --instance-types "$type" \
    --query 'InstanceTypes[0].GpuInfo.Gpus[0].[Manufacturer, MemoryInfo.SizeInMiB, Name]')
  read -r maker mib card <<<"$about"
  [ "$maker" = NVIDIA ] || fail "$type has no NVIDIA card" "Another --type: g4dn.xlarge (T4), g6.xlarge (L4), g6e.xlarge (L40S)"
  # From there on size_models (scripts/lib/config.sh) takes Llama's own weights.
  if [ -n "$token_parameter" ] || ((mib < 38000)); then return; fi
  what="a card of $mib MiB ($card) gets Llama 3.1's own weights: without a Hugging Face token the set-up will stop at once"
  ! $wait_ready || fail "$type: $what" "Give it one: --hf-token-parameter P --instance-profile NAME" \
    "Or take --no-wait, log in, and run the set-up there: it asks for the token."
  say "note: $what. Run it again on the instance with a token: see below"
}

# find_image: sets $image to an image's id, and $root_device to where its disk is
find_image() {
  local about architecture
  if [[ $image == /* ]]; then image=$(ask ssm get-parameter --name "$image" --query Parameter.Value); fi
  about=$(ask ec2 describe-images --image-ids "$image" --query 'Images[0].[RootDeviceName,Architecture]')
  read -r root_device architecture <<<"$about"
  say "image $image ($architecture)"
}

launch() {
  local options=()
  where_from
  check_card
  find_image
  find_network
  make_group
  open_ports
  user_data >"$work/user-data"
  if $dry_run; then
    say "  user data:"
    sed 's/^/    | /' "$work/user-data"
  fi
  [ -z "$key_name" ] || options+=(--key-name "$key_name")
  [ -z "$subnet" ] || options+=(--subnet-id "$subnet")
  [ -z "$profile" ] || options+=(--iam-instance-profile "Name=$profile")
  say "launching $type, source $source_url${source_ref:+ at $source_ref}"
  instance=$(change ec2 run-instances --image-id "$image" --instance-type "$type" --count 1 --security-group-ids "$group" \
    --block-device-mappings \
    "DeviceName=$root_device,Ebs={VolumeSize=$volume_gib,VolumeType=gp3,Encrypted=true,DeleteOnTermination=true}" \
    --metadata-options HttpTokens=required,HttpEndpoint=enabled,HttpPutResponseHopLimit=1 \
    --tag-specifications "ResourceType=instance,Tags=[{Key=Name,Value=$name},{Key=$TAG,Value=$name}]" \
    "ResourceType=volume,Tags=[{Key=Name,Value=$name},{Key=$TAG,Value=$name}]" \
    --user-data "file://$work/user-data" "${options[@]}" --query 'Instances[0].InstanceId')
}

# --- one that is there

find_or_launch() {
  find_instance
  if [ -z "$instance" ]; then
    launch
    return
  fi
  say "found $instance ($state)"
  make_group
  open_ports
  if $newly_open; then say "its nginx has an allow-list of its own: on the instance, sudo $setup"; fi
  if [ "$state" = stopping ]; then
    await stopped "$instance"
    state=stopped
  fi
  if [ "$state" = stopped ]; then
    say "starting it"
    change ec2 start-instances --instance-ids "$instance" >/dev/null
  fi
}

# answers ADDRESS: returns when arena-server does; status 1 if it takes too long
answers() {
  local deadline=$((SECONDS + READY_LIMIT_S))
  until curl -sk --max-time 10 "https://$1/health" | grep -q available_models; do
    if ((SECONDS > deadline)); then return 1; fi
    sleep 10
  done
}

next_commands() {
  local about address public host login="ssh${key_name:+ -i $key_name.pem} ubuntu"
  about=$(ask ec2 describe-instances --instance-ids "$instance" \
    --query 'Reservations[0].Instances[0].[PublicIpAddress,PrivateIpAddress]')
  read -r public address <<<"$about"
  if [ "$public" != None ]; then address=$public; fi
  host=$login@$address
  say ""
  say "$instance is at $address"
  say "  how far it is   $host sudo tail -f $LOG"
  say "  try it          $scripts/smoke_test.sh https://$address --insecure"
  say "  the operator's  $host -L 8000:127.0.0.1:8000, then arena-server status"
  say "  a token later   $host -t sudo $setup     (asks for it)"
  say "  end it          $0 --terminate --name $name --region $region"
  if $wait_ready; then
    say ""
    waiting "waiting until arena-server answers (drivers, packages, weights: 15 to 40 minutes)" answers "$address" ||
      fail "it does not answer after $((READY_LIMIT_S / 60)) minutes" "See how far it is (above), and whether this machine's address is in --cidr."
    say "https://$address answers"
  fi
}

if $terminate; then
  end_all
else
  find_or_launch
  if ! $dry_run; then
    await running "$instance"
    next_commands
  fi
fi
if $dry_run; then say "Nothing was changed."; fi
