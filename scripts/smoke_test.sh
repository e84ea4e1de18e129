#!/usr/bin/env bash
# Asks a running arena-server for one of everything: its health, its models, a chat, a stream, two models in parallel.
# Needs bash and curl. One line a check; exit status 0 if all is well, 1 if a check failed, 2 for a wrong command line.
set -euo pipefail

usage() {
  cat <<'END'
Usage: smoke_test.sh BASE_URL [options]

  BASE_URL          where the daemon answers, say http://127.0.0.1:8000 or https://models.example.com

  --model NAME      ask this model (the first of the daemon's); given twice, the two of the parallel check
  --timeout S       seconds an answer may take, a load included (900)
  --insecure        take any TLS certificate, a self-signed one, say
  --key-file FILE   where the API key is, if one is needed (else $ARENA_API_KEY); its scope: inference
  --help            this text
END
}

wrong() { printf 'smoke_test: %s (see --help)\n' "$*" >&2; exit 2; }

base='' limit_s=900 api_key=${ARENA_API_KEY:-}
wanted=() options=(--silent --show-error --connect-timeout 10)
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --insecure) options+=(--insecure); shift; continue ;;
    --model | --timeout | --key-file) [ $# -ge 2 ] || wrong "$1 needs a value" ;;
    -*) wrong "unknown option $1" ;;
    *) [ -z "$base" ] || wrong "one BASE_URL only, not also $1"; base=${1%/}; shift; continue ;;
  esac
  case $1 in
    --model) wanted+=("$2") ;;
    --timeout) limit_s=$2 ;;
    --key-file) api_key=$(tr -d '[:space:]' <"$2") && [ -n "$api_key" ] || wrong "--key-file $2: there is no key in it" ;;
  esac
  shift 2
done
[ -n "$base" ] || wrong "a BASE_URL is needed"
[[ $base =~ ^https?://[^/[:space:]]+ ]] || wrong "BASE_URL must begin with http:// or https://, not be $base"
[[ $limit_s =~ ^[1-9][0-9]*$ ]] || wrong "--timeout must be whole seconds, not $limit_s"
command -v curl >/dev/null || { printf 'smoke_test: curl is missing (Debian: apt install curl)\n' >&2; exit 2; }

work=$(mktemp -d)
# shellcheck disable=SC2046  # numbers
trap 'rm -rf "$work"; kill $(jobs -p) 2>/dev/null || true' EXIT
# In a file: what stands on curl's command line can be read by everybody on this machine.
printf 'Content-Type: application/json\n' >"$work/headers"
[ -z "$api_key" ] || printf 'Authorization: Bearer %s\n' "$api_key" >>"$work/headers"

# ask NAME PATH [curl's options]: the body goes to $work/NAME.body, "status seconds" to $work/NAME.end
ask() {
  local name=$1 path=$2
  shift 2
  curl "${options[@]}" -H "@$work/headers" -o "$work/$name.body" -w '%{http_code} %{time_total}' "$@" "$base$path" \
    >"$work/$name.end" 2>"$work/$name.error"
}

status_of() { cut -d' ' -f1 "$work/$1.end"; }
seconds_of() { cut -d' ' -f2 "$work/$1.end" 2>/dev/null | sed 's/\(\...\).*/\1/'; }

# why NAME: what an answer says is wrong; the daemon's and vLLM's errors have OpenAI's shape
why() {
  local message
  message=$(sed -nE 's/.*"message": *"(([^"\\]|\\.)*)".*/\1/p' "$work/$1.body" 2>/dev/null | head -n 1)
  [ -n "$message" ] || message=$(head -c 200 "$work/$1.body" 2>/dev/null | tr -d '\0' | tr '\n' ' ')
  printf '%s' "${message//\\\"/\"}"
}

# answered NAME: true if the exchange NAME ended with 200; else says in $said what came instead
answered() {
  if [ ! -s "$work/$1.end" ] || [ -s "$work/$1.error" ]; then
    said=$(sed 's/^curl: ([0-9]*) //' "$work/$1.error" | head -n 1)
    return 1
  fi
  [ "$(status_of "$1")" = 200 ] && return
  said="status $(status_of "$1"): $(why "$1")"
  if [ "$(status_of "$1")" = 401 ] && [ -z "$api_key" ]; then said+=" (ARENA_API_KEY, or --key-file FILE)"; fi
  return 1
}

# wait_for PID WHAT: until the process ends, saying every 10 s that it still waits
wait_for() {
  local start=$SECONDS
  while kill -0 "$1" 2>/dev/null; do
    sleep 0.1
    if ((SECONDS - start >= 10)) && kill -0 "$1" 2>/dev/null; then
      start=$SECONDS
      printf '      %s: still waiting, %d s of %d\n' "$2" $((SECONDS - begun)) "$limit_s" >&2
    fi
  done
  wait "$1" || true
}

# chat NAME MODEL STREAM [curl's options]: asks in the background, and sets $pid. A stream is to take long enough that one can
# tell whether it is kept back.
chat() {
  local name=$1 body tokens=64 last=twenty
  if [ "$3" = true ]; then tokens=256 last='two hundred'; fi
  body=$(printf '{"model": "%s", "stream": %s, "max_tokens": %d, "messages": [{"role": "user", "content": "%s"}]}' \
    "$2" "$3" "$tokens" "Count from one to $last in words.")
  shift 3
  ask "$name" /v1/chat/completions --max-time "$limit_s" --data-binary "$body" "$@" &
  pid=$!
}

readonly TELLING_MS=1000 # a stream that takes longer, and of which nothing comes before its end, is kept back
readonly APART_MS=10     # what comes further apart did not come in one piece
failed=0
# check WHAT FUNCTION ARGUMENTS...: one line; the function sets $said, and $took where curl did not
check() {
  local what=$1
  shift
  said='' took='' begun=$SECONDS
  if "$@"; then
    printf 'ok    %-9s %6s s  %s\n' "$what" "${took:-0}" "$said"
  else
    printf 'FAIL  %-9s %6s s  %s\n' "$what" "${took:-0}" "$said"
    failed=$((failed + 1))
    return 1
  fi
}

health() {
  ask health /health --max-time 15 || true
  took=$(seconds_of health)
  answered health || return 1
  if ! grep -q '"available_models"' "$work/health.body"; then
    said="$base/health is not arena-server's: $(head -c 80 "$work/health.body" | tr -d '\0' | tr '\n' ' ')"
    return 1
  fi
  # The names hold neither quotes nor backslashes, so this is enough of a JSON reader.
  available=()
  while IFS= read -r name || [ -n "$name" ]; do available+=("$name"); done < <(
    sed -n 's/.*"available_models": *\[\([^]]*\)\].*/\1/p' "$work/health.body" | tr ',' '\n' | sed -n 's/^ *"\(.*\)" *$/\1/p'
  )
  awake=$(sed -n 's/.*"loaded_models": *\[\([^]]*\)\].*/\1/p' "$work/health.body")
  said="${#available[@]} models, awake: ${awake:-none}"
  grep -q '"status": *"healthy"' "$work/health.body" || { said="the daemon is stopping"; return 1; }
  if [ ${#available[@]} = 0 ]; then
    said="the daemon has no models: add some to its configuration, below \`models\`, and reload it"
    return 1
  fi
}

models() {
  ask models /v1/models --max-time 15 || true
  took=$(seconds_of models)
  answered models || return 1
  local name
  for name in ${wanted[@]+"${wanted[@]}"} "${available[@]}"; do
    if ! grep -q "\"id\": *\"$name\"" "$work/models.body"; then
      said="no model $name (there are ${available[*]})"
      return 1
    fi
  done
  said=${available[*]}
}

# announce MODEL...: says which of them have to be loaded first
announce() {
  local name
  for name in "$@"; do
    [[ $awake == *"\"$name\""* ]] || printf '      %s may have to be loaded: waiting up to %d s\n' "$name" "$limit_s" >&2
  done
}

# has_text NAME: true if a chat's answer holds text (or thoughts)
has_text() {
  answered "$1" || return 1
  if ! grep -Eq '"(content|reasoning|reasoning_content)": *"[^"]' "$work/$1.body"; then
    said="no text in the answer: $(head -c 200 "$work/$1.body" | tr '\n' ' ')"
    return 1
  fi
}

one_chat() {
  announce "$1"
  chat chat "$1" false
  wait_for "$pid" "$1"
  took=$(seconds_of chat)
  has_text chat || return 1
  said=$1
}

# one_stream MODEL: asked again, twice at most, if it seems kept back: a proxy does that every time, and a machine that is
# too busy to let curl run while the answer comes does not
one_stream() {
  local try
  for try in 1 2 3; do
    streamed "$1" || return 1
    read -r whole_ms spread_ms < <(times)
    if ((spread_ms >= APART_MS)); then
      said="$1: $events events over $spread_ms ms"
      return
    elif ((events < 2 || whole_ms < TELLING_MS)); then
      said="$1: $events events in $whole_ms ms (too quick to tell whether it is kept back)"
      return
    fi
  done
  said="nothing of $events events came before the end, after $whole_ms ms, $try times: something on the way keeps streams back (nginx: proxy_buffering off)"
  return 1
}

# streamed MODEL: one stream, whole and without an error; sets $events
streamed() {
  chat stream "$1" true --no-buffer --trace-time --trace-ascii "$work/stream.trace"
  wait_for "$pid" "$1"
  took=$(seconds_of stream)
  answered stream || return 1
  if grep -Eq '^data: *\{ *"error"|^event: *error' "$work/stream.body"; then
    said="broke off: $(why stream)"
    return 1
  fi
  events=$(grep -c '^data: *{' "$work/stream.body" || true)
  if [ "$(sed -n 's/^data: *//p' "$work/stream.body" | tail -n 1 | tr -d '\r')" != '[DONE]' ]; then
    said="ended after $events events without [DONE]"
    return 1
  fi
}

# times: how long the stream took (ms), from the request to its last event, and what of it after the first sign of life
times() {
  # The end of the chunked encoding is a read of its own, smaller than any event.
  awk '{ split($1, t, ":"); s = t[1] * 3600 + t[2] * 60 + t[3]; if (s < begun) s += 86400 }
    / => Send (header|data)/ && !begun { begun = s }
    / <= Recv data/ && $5 > 16 { if (!n++) first = s; last = s }
    END { printf "%d %d\n", (last - begun) * 1000, (last - first) * 1000 }' "$work/stream.trace"
}

in_parallel() {
  local first second
  announce "$1" "$2"
  chat left "$1" false
  first=$pid
  chat right "$2" false
  second=$pid
  wait_for "$first" "$1"
  wait_for "$second" "$2"
  took=$(printf '%s\n%s\n' "$(seconds_of left)" "$(seconds_of right)" | sort -n | tail -n 1)
  has_text left || { said="$1: $said"; return 1; }
  has_text right || { said="$2: $said"; return 1; }
  said="$1 and $2"
}

printf 'Smoke test of %s\n' "$base"
if check health health && check models models; then
  first=${wanted[0]:-${available[0]}}
  second=${wanted[1]:-}
  for name in "${available[@]}"; do
    if [ -z "$second" ] && [ "$name" != "$first" ]; then second=$name; fi
  done
  check chat one_chat "$first" || true
  check stream one_stream "$first" || true
  if [ -n "$second" ]; then
    check parallel in_parallel "$first" "$second" || true
  else
    printf -- '--    parallel            the daemon has one model only\n'
  fi
fi
if [ "$failed" -gt 0 ]; then
  printf 'FAILED: %d of the checks (the daemon'\''s own words: journalctl -u vllm-arena, GET /health)\n' "$failed"
  exit 1
fi
printf 'All is well\n'
