#!/usr/bin/env bash
# Makes a Debian or Ubuntu GPU host serve Llama 3.1 8B, Mistral 7B and Qwen 2.5 7B by arena-server, behind nginx.
# May be run again at any time: what is there already stays as it is. docs/setup.md tells what it does, step by step.
set -euo pipefail
shopt -s lastpipe # what is at the end of a pipe runs in this very shell, and its variables stay

usage() {
  cat <<'END'
Usage: sudo setup_vllm_multi_model.sh [options]

  --dry-run           print each step, and change nothing
  --config FILE       install this configuration, and not the three models'; one that is there is never overwritten
  --allow CIDR        let this range in, too, through nginx (may be repeated); at first only this machine gets in
  --engine gpu|cpu    cpu: vLLM's CPU build and three tiny models, for a trial without a card (gpu)
  --source DIR        the checkout of arena-server to install (the one this script lies in)
  --python PATH       Python 3.11 to 3.13 (the first one found)
  --port N            the daemon's port on 127.0.0.1, in a new configuration (8000)
  --http-port N       nginx's, which redirects (80)
  --https-port N      nginx's, which serves (443)
  --no-nginx          without the proxy
  --nginx             with it, after a run without
  --no-weights        leave the weights to the first request for each model
  --no-start          install, and start nothing
  --help              this text

Taken from the last run where they are not given: --engine, --python, the ports and --no-nginx.
Llama 3.1's weights need a Hugging Face token: HF_TOKEN in the environment (sudo --preserve-env=HF_TOKEN), or it is asked
for. Log: /var/log/vllm-arena-setup.log.
END
}

scripts=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
source_dir=${scripts%/*}
# shellcheck source=scripts/lib/progress.sh
. "$scripts/lib/progress.sh"
# shellcheck source=scripts/lib/cidr.sh
. "$scripts/lib/cidr.sh"
# shellcheck source=scripts/lib/options.sh
. "$scripts/lib/options.sh"
# shellcheck source=scripts/lib/machine.sh
. "$scripts/lib/machine.sh"
# shellcheck source=scripts/lib/uv.sh
. "$scripts/lib/uv.sh"
# shellcheck source=scripts/lib/install.sh
. "$scripts/lib/install.sh"
# shellcheck source=scripts/lib/config.sh
. "$scripts/lib/config.sh"
# shellcheck source=scripts/lib/serve.sh
. "$scripts/lib/serve.sh"

wrong() { printf 'set-up: %s (see --help)\n' "$*" >&2; exit 2; }

engine=gpu own_config='' wanted_python='' port=8000 http_port=80 https_port=443
with_nginx=true with_weights=true with_start=true
allowed=()
recall_options
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --dry-run) dry_run=true; shift; continue ;;
    --no-nginx) with_nginx=false; shift; continue ;;
    --nginx) with_nginx=true; shift; continue ;;
    --no-weights) with_weights=false; shift; continue ;;
    --no-start) with_start=false; shift; continue ;;
    --config | --allow | --engine | --source | --python | --port | --http-port | --https-port) ;;
    *) wrong "unknown option $1" ;;
  esac
  [ $# -ge 2 ] || wrong "$1 needs a value"
  case $1 in
    --config) [ -f "$2" ] || wrong "--config: there is no file $2"; own_config=$(readlink -f "$2") ;;
    --allow) cidr_prefix "$2" >/dev/null || wrong "--allow: $2 is no address range such as 10.0.0.0/16"; allowed+=("$2") ;;
    --engine) [[ $2 == gpu || $2 == cpu ]] || wrong "--engine is gpu or cpu, not $2"; engine=$2 ;;
    --source) source_dir=$(readlink -f "$2") ;;
    --python)
      wanted_python=$(command -v "$2") || wrong "--python: there is no $2"
      # Whole, as the work is done elsewhere; a link stays one, or Python would not know its environment.
      [[ $wanted_python == /* ]] || wanted_python=$(realpath -s "$wanted_python")
      ;;
    --port) port=$2 ;;
    --http-port) http_port=$2 ;;
    --https-port) https_port=$2 ;;
  esac
  shift 2
done
for number in "$port" "$http_port" "$https_port"; do
  if ! [[ $number =~ ^[1-9][0-9]{0,4}$ ]] || ((number > 65535)); then
    wrong "a port is a number from 1 to 65535, not $number"
  fi
done
if ((port == http_port || port == https_port || http_port == https_port)); then
  wrong "--port, --http-port and --https-port must be three different ones"
fi
grep -q '^name = "arena-server"' "$source_dir/pyproject.toml" 2>/dev/null ||
  wrong "--source: $source_dir is no checkout of arena-server"

if ! $dry_run; then
  [ "$(id -u)" = 0 ] || wrong "this has to be run as root: sudo $0 ..."
  # /tmp and the caller's directory may be closed to the service's user, as whom some commands run.
  cd /
  umask 022
  exec 9>/run/lock/vllm-arena-setup.lock
  flock -n 9 || fail "another set-up is running on this machine" "Wait for its end."
  log=/var/log/vllm-arena-setup.log
  (umask 077 && : >>"$log")
fi
export LC_ALL=C.UTF-8 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
quantised=false
# A command that fails where nobody reckoned with it: never end without a word.
trap interrupted INT TERM
set -E
trap '[ $? != "$TOLD" ] || exit 1; fail "line $LINENO: \`$BASH_COMMAND\` failed"' ERR

begin "The machine"
check_system
find_python "$wanted_python"
if [ "$engine" = gpu ]; then check_cards; fi
if [ "$engine" = gpu ] && [ ! -e "$CONFIG" ] && [ -z "$own_config" ]; then size_models; else weights_bytes=0; fi
venv_bytes=0
if [ ! -e "$INSTALLED" ]; then
  if [ "$engine" = gpu ]; then venv_bytes=$VENV_GPU_BYTES; else venv_bytes=$VENV_CPU_BYTES; fi
  venv_bytes=$((venv_bytes - $(taken "$HOME_DIR")))
  if ((venv_bytes < 0)); then venv_bytes=0; fi
  check_room "$HOME_DIR" "$venv_bytes" "vLLM"
fi
# Of a configuration that is there, or given, `arena-server pull` knows what it needs.
if ((weights_bytes)); then weights_bytes=$((weights_bytes - $(taken "$HUB"))); fi
if ((weights_bytes > 0)) && $with_weights; then
  if [ "$(disk "$HOME_DIR" source)" = "$(disk "$STATE_DIR" source)" ]; then
    check_room "$STATE_DIR" $((weights_bytes + venv_bytes)) "the weights and vLLM"
  else
    check_room "$STATE_DIR" "$weights_bytes" "the weights"
  fi
fi
check_token

begin "Packages"
packages=(gcc g++ curl ca-certificates)
if [ "$engine" = cpu ]; then packages+=(libnuma1); fi
for_python=$(python_packages)
read -ra for_python <<<"$for_python"
if $with_nginx; then
  packages+=(openssl)
  command -v nginx >/dev/null || packages+=(nginx)
fi
install_packages "${packages[@]}" "${for_python[@]}"

begin "User and folders"
make_user
keep_options

begin "arena-server and vLLM"
install_server

begin "Configuration"
write_config
keep_token
daemon_port=$(daemon_port)

if $with_weights; then
  begin "Weights"
  fetch_weights
fi

begin "Service"
install_unit
if $with_start; then start_service; fi

if $with_nginx; then
  begin "Proxy"
  make_certificate
  write_allow_list
  install_site
  if $with_start; then start_nginx; fi
fi

if $with_start; then
  begin "Smoke test"
  smoke_test
fi

step_name=''
say ''
if $dry_run; then
  say "Nothing was changed. Without --dry-run these steps are taken."
  exit 0
fi
if [ "$changes" = 0 ]; then say "unchanged: everything was as it should be"; else say "done: $changes changes"; fi
say "  watch it    $VENV/bin/arena-server status --url http://127.0.0.1:$daemon_port      journalctl -u vllm-arena -f"
say "  configure   $CONFIG, then systemctl reload vllm-arena"
say "  API keys    $VENV/bin/arena-server keys create NAME --scope admin --config $CONFIG makes the first; then everybody needs one"
if $with_nginx; then
  say "  open it     to a range of addresses: $0 --allow 10.0.0.0/16, or $ALLOW_LIST and systemctl reload nginx"
fi
if ! $with_start; then say "  start it    systemctl enable --now vllm-arena"; fi
