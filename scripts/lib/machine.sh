# shellcheck shell=bash disable=SC2034,SC2154  # the parts of the set-up share variables, named below
# Looks at the machine before anything is changed; to be sourced, after progress.sh.
# Sets $python and $python_version, $card_mib and $capability (of the smallest card and the oldest; 75 is 7.5) and $half_only.

readonly GIB=$((1 << 30))
# What an installation takes, measured: PyTorch with CUDA and vLLM, or their CPU builds; with the package cache.
readonly VENV_GPU_BYTES=$((18 * GIB)) VENV_CPU_BYTES=$((4 * GIB))
# A new machine's own first updates hold apt's lock for minutes.
readonly APT=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -o DPkg::Lock::Timeout=600)

check_system() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "this is neither Debian nor Ubuntu (no apt-get)" "docs/setup.md has the steps one by one, for other systems."
  fi
  case $(uname -m) in
    x86_64 | aarch64) ;;
    *) fail "there is no vLLM for $(uname -m) (only for x86_64 and aarch64)" ;;
  esac
  case $(systemctl is-system-running 2>/dev/null || true) in
    '' | offline | unknown) fail "systemd does not run this machine (a container?)" \
      "The set-up installs a systemd service. In a container run \`arena-server serve\` itself: README.md." ;;
  esac
  ok "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), $(uname -m), systemd"
}

# find_python [PATH]: the one given, else the first that is new enough
find_python() {
  local candidate about
  if [ -z "${1:-}" ] && ! compgen -c python3 >/dev/null; then
    run "reading the lists of packages" "${APT[@]}" update
    run "installing Python" "${APT[@]}" install -y --no-install-recommends python3
    if $dry_run; then python=/usr/bin/python3 python_version=3; return; fi
    hash -r
  fi
  local candidates=(python3.12 python3.13 python3.11 python3)
  [ -z "${1:-}" ] || candidates=("$1")
  for candidate in "${candidates[@]}"; do
    command -v "$candidate" >/dev/null || continue
    about=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $about in
      3.11 | 3.12 | 3.13)
        python=$(command -v "$candidate")
        python_version=$about
        ok "Python $about ($candidate)"
        return
        ;;
    esac
  done
  fail "Python 3.11, 3.12 or 3.13 is needed, and ${1:-python3} is $("${1:-python3}" --version 2>/dev/null || echo missing)" \
    "Debian 12 and Ubuntu 24.04 have one. Ubuntu 22.04: apt install python3.11 python3.11-venv python3.11-dev (universe)." \
    "One from elsewhere: --python /path/to/python3.12 (with its headers: kernels are compiled against them)."
}

check_cards() {
  local cards name mib version driver
  if ! command -v nvidia-smi >/dev/null; then
    fail "no NVIDIA driver (there is no nvidia-smi)" \
      "Ubuntu: apt install ubuntu-drivers-common && ubuntu-drivers install --gpgpu, then nvidia-utils of the same number" \
      "Debian: add contrib non-free non-free-firmware to the apt sources; apt install linux-headers-amd64 nvidia-driver" \
      "Then restart the machine. AWS: the image \"Deep Learning Base OSS Nvidia Driver GPU AMI\" has it." \
      "To try arena-server on a machine without a card: --engine cpu"
  fi
  if ! cards=$(nvidia-smi --query-gpu=name,memory.total,compute_cap,driver_version --format=csv,noheader,nounits 2>&1); then
    fail "the NVIDIA driver does not answer: $(head -n 1 <<<"$cards")" \
      "After the driver was installed or updated the machine has to be restarted; \`dkms status\` says whether it was built."
  fi
  card_mib='' capability=999 half_only=false
  while IFS=, read -r name mib version driver; do
    version=${version// /}
    [[ ${mib// /} =~ ^[0-9]+$ ]] || fail "nvidia-smi says nothing of the card's memory: $name,$mib" \
      "A card in MIG mode or with unified memory needs a configuration of your own: --config FILE"
    ok "$name, ${mib// /} MiB, compute capability $version, driver ${driver// /}"
    if [ -z "$card_mib" ] || ((mib < card_mib)); then card_mib=${mib// /}; fi
    [[ $version =~ ^[0-9]+\.[0-9]$ ]] || continue
    if ((${version/./} < capability)); then capability=${version/./}; fi
  done <<<"$cards"
  ((capability >= 70)) || fail "vLLM needs compute capability 7.0 (Volta) or newer, and a card here has ${capability:0:-1}.${capability: -1}" \
    "Take a newer card (T4, A10, L4 and later ones), and the old one out: CUDA shows all of them to vLLM."
  # bfloat16 came with compute capability 8.0 (Ampere).
  if ((capability < 80)); then half_only=true; fi
}

# disk PATH FIELD: what df says of the file system where the path is, or will be
disk() {
  local path=$1
  while [ ! -e "$path" ]; do path=$(dirname "$path"); done
  df -B1 --output="$2" "$path" | tail -n 1 | tr -d ' '
}

# taken PATH: bytes that are there already, of an installation that was broken off, say
taken() {
  local bytes
  bytes=$(du -s -B1 "$1" 2>/dev/null | cut -f1 || true)
  printf '%d' "${bytes:-0}"
}

# check_room PATH BYTES WHAT
check_room() {
  local free needed=$((($2 + GIB - 1) / GIB))
  free=$(disk "$1" avail)
  if ((free < $2)); then
    fail "$3 need $needed GiB in $1, and $((free / GIB)) are free" "Free some, or put a larger disk there."
  fi
  ok "$((free / GIB)) GiB free in $1 ($3: $needed)"
}
