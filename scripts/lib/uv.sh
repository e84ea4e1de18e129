# shellcheck shell=bash
# uv installs in a tenth of pip's time, but reads none of pip's configuration, where a machine says what it installs
# from: a mirror that an administrator has set would be passed by. To be sourced.

# pip_setting PYTHON NAME: as that Python's pip is configured, in one line: the environment, else the last of the files
pip_setting() {
  local all
  all=$("$1" -m pip config list 2>/dev/null || true)
  { grep "^:env:\.$2=" <<<"$all" || grep -E "^(global|site|user|install)\.$2=" <<<"$all" || true; } | tail -n 1 |
    sed -E "s/^[^=]*='(.*)'\$/\1/; s/\\\\n/ /g"
}

# uv_follows_pip PYTHON: exports uv's variables, those that are not set already
uv_follows_pip() {
  local index extra links certificates
  index=$(pip_setting "$1" index-url) extra=$(pip_setting "$1" extra-index-url)
  links=$(pip_setting "$1" find-links) certificates=$(pip_setting "$1" cert)
  [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
  # Pip separates several places by white space, uv these by commas.
  [ -z "$links" ] || export UV_FIND_LINKS=${UV_FIND_LINKS:-${links// /,}}
  [ -z "$certificates" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}
  if [ -n "$extra" ]; then
    export UV_EXTRA_INDEX_URL=${UV_EXTRA_INDEX_URL:-$extra}
    # The best version of all indexes, as pip chooses; uv's default is the first index that has the package at all.
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
  fi
}
