# shellcheck shell=bash disable=SC2034,SC2154  # the parts of the set-up share variables, named below
# The configuration, the token and the weights; to be sourced, after install.sh.
# Reads $engine, $port, $own_config, $card_mib, $half_only.

readonly CONFIG=/etc/vllm-arena/arena.yaml ENV_FILE=/etc/vllm-arena/env
readonly DEMO_MODELS=$STATE_DIR/demo-models

# Sets $fractions (Llama's, Mistral's, Qwen's), $limits (of each engine), $quantised, $refined and $weights_bytes for the smallest
# card. Two models at least are awake at once, as a battle needs both of its pair: where bf16 weights (15 GiB each) leave
# no room for that, 4-bit ones are taken. The fractions are those by which `arena-server plan` says that every pair fits
# and each has room for a request of full length; where $refined it then puts in its own, from the models themselves.
size_models() {
  quantised=false weights_bytes=$((46 * GIB)) limits='max_model_len: 8192' refined=true
  if ((card_mib >= 72000)); then
    fractions=(0.32 0.30 0.32)
  elif ((card_mib >= 38000)); then
    fractions=(0.48 0.44 0.46)
  elif ((card_mib >= 22000)); then
    fractions=(0.46 0.42 0.46) quantised=true
  elif ((card_mib >= 14500)); then
    # 256 requests at once, vLLM's default, would take the room of the KV cache for their sampling.
    # What `plan` recommends for each alone would leave no room for Llama beside Qwen.
    fractions=(0.48 0.40 0.46) quantised=true limits='max_model_len: 4096, max_num_seqs: 32' refined=false
  else
    fail "the three models need a card of 16 GB or more, two of them awake: this one has $card_mib MiB" \
      "Give a configuration of your own with smaller ones: --config FILE (README.md has an example)."
  fi
  if $quantised; then
    weights_bytes=$((16 * GIB))
    ((capability >= 75)) || fail "of three models this card ($card_mib MiB) has room for 4-bit ones only, and these need compute capability 7.5 (Turing)" \
      "It has ${capability:0:1}.${capability:1}. Give a configuration with smaller models, in half precision: --config FILE" \
      "(README.md has an example; \`engine_args: {dtype: half}\`), or take a T4, an A10, an L4 or a later card."
  fi
}

# model_yaml NAME MODEL FRACTION
model_yaml() {
  printf '  %s:\n    model: %s\n    gpu_memory_utilization: %s\n    engine_args: {%s%s}\n' "$@" "$limits" "$dtype"
}

# gpu_yaml: the three models, sized for the card
gpu_yaml() {
  local dtype=''
  # AWQ's and GPTQ's kernels want fp16, and cards before Ampere have no bf16.
  if $quantised || $half_only; then dtype=', dtype: half'; fi
  head_yaml "for cards of $card_mib MiB"
  if $quantised; then
    model_yaml llama-3.1-8b hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4 "${fractions[0]}"
    model_yaml mistral-7b RedHatAI/Mistral-7B-Instruct-v0.3-GPTQ-4bit "${fractions[1]}"
    model_yaml qwen-2.5-7b Qwen/Qwen2.5-7B-Instruct-AWQ "${fractions[2]}"
  else
    model_yaml llama-3.1-8b meta-llama/Llama-3.1-8B-Instruct "${fractions[0]}"
    model_yaml mistral-7b mistralai/Mistral-7B-Instruct-v0.3 "${fractions[1]}"
    model_yaml qwen-2.5-7b Qwen/Qwen2.5-7B-Instruct "${fractions[2]}"
  fi
}

# demo_yaml: three tiny models that come with arena-server, for a trial without a card
demo_yaml() {
  local name
  head_yaml "for a trial on the CPU"
  for name in tiny-llama tiny-mistral tiny-qwen; do
    printf '  %s:\n    model: %s\n    gpu_memory_utilization: 0.05\n' "$name" "$DEMO_MODELS/$name"
    printf '    engine_args: {dtype: float32, max_model_len: 2048, enforce_eager: true, kv_cache_memory_bytes: 67108864}\n'
  done
}

head_yaml() {
  cat <<END
# arena-server's configuration, written by setup_vllm_multi_model.sh $1; the set-up never writes it again.
# All keys: docs/configuration.md. After a change: arena-server check-config $CONFIG && systemctl reload vllm-arena
server: {host: 127.0.0.1, port: $port}
state_dir: $STATE_DIR
run_dir: /run/vllm-arena
END
  if [ "$engine" = cpu ]; then printf 'pool: {max_awake_models: 2}\n'; fi
  printf 'models:\n'
}

# write_config: an existing one is never overwritten
write_config() {
  local draft
  if [ "$engine" = cpu ] && [ -z "$own_config" ] && [ ! -e "$CONFIG" ] && [ ! -d "$DEMO_MODELS" ]; then
    run "writing the demo models" runuser -u "$USER_NAME" -- "$VENV/bin/arena-server" make-demo-models "$DEMO_MODELS"
  fi
  if [ -e "$CONFIG" ]; then
    ok "$CONFIG is there, and is left as it is"
    if [ -n "$own_config" ] && ! cmp -s "$own_config" "$CONFIG"; then
      note "$own_config is another one: to take it, copy it over $CONFIG and run \`systemctl reload vllm-arena\`"
    fi
    $dry_run || checked "$CONFIG"
    return
  fi
  if [ -n "$own_config" ]; then
    $dry_run || checked "$own_config"
    put_file "$CONFIG" 0640 "root:$USER_NAME" <"$own_config"
  elif $dry_run; then
    if [ "$engine" = cpu ]; then demo_yaml; else gpu_yaml; fi | sed 's/^/    | /'
    put_file "$CONFIG" 0640 "root:$USER_NAME" </dev/null
  else
    draft=$(mktemp --suffix=.yaml)
    if [ "$engine" = cpu ]; then demo_yaml; else gpu_yaml; fi >"$draft"
    if [ "$engine" = gpu ] && $refined; then refine "$draft"; fi
    checked "$draft"
    put_file "$CONFIG" 0640 "root:$USER_NAME" <"$draft"
    rm -f "$draft"
  fi
}

# refine FILE: let `plan` put in sizes from the models' own figures, where the hub can be reached. As the service's user, to
# whom the cache belongs: what root leaves there, no load could ever write again. In a folder of that user's own, as `plan`
# writes the new file beside the old one. It may write and still say that a model cannot work: then it is not taken.
refine() {
  local place
  say "  asking \`arena-server plan\` for the sizes (as long as the hub takes)"
  place=$(as_service mktemp -d -p "$STATE_DIR" plan.XXXXXXXX)
  as_service tee "$place/arena.yaml" <"$1" >/dev/null
  if with_token as_service "$VENV/bin/arena-server" plan --config "$place/arena.yaml" --write >>"$log" 2>&1; then
    as_service cat "$place/arena.yaml" >"$1"
    ok "sizes by \`arena-server plan\`"
  else
    note "\`arena-server plan\` could not refine the sizes now (see the log); those in the file are cautious ones"
  fi
  as_service rm -rf "$place"
}

# checked FILE: ends the set-up if the daemon could not use it
checked() {
  local said
  said=$("$VENV/bin/arena-server" check-config "$1" 2>&1) ||
    fail "the configuration cannot be used" "$said"
  printf '%s\n' "$said" >>"$log"
}

# daemon_port: of the configuration that is in force
daemon_port() {
  if $dry_run && [ ! -x "$VENV/bin/python" ]; then printf '%s' "$port"; return; fi
  "$VENV/bin/python" - "$CONFIG" <<'END' 2>/dev/null || printf '%s' "$port"
import pathlib, sys
from arena_server.config import load_config
print(load_config(pathlib.Path(sys.argv[1])).server.port, end="")
END
}

# kept_token: as systemd reads that file: the last one counts, quotes and the ends of lines are none of it
kept_token() {
  sed -nE "s/[[:space:]]+\$//; s/^HF_TOKEN=//; t have; d; :have; s/^([\"'])(.*)\\1\$/\\2/; /./p" "$ENV_FILE" 2>/dev/null |
    tail -n 1 || true
}

# wants_llama: true if the configuration, there or to be, names a model of Meta's, which are given to registered people only
wants_llama() {
  if [ -e "$CONFIG" ]; then
    grep -q 'meta-llama/' "$CONFIG"
  elif [ -n "$own_config" ]; then
    grep -q 'meta-llama/' "$own_config"
  else
    [ "$engine" = gpu ] && ! $quantised
  fi
}

# check_token: at the beginning, and not after an hour of downloading
check_token() {
  token=${HF_TOKEN:-$(kept_token)}
  token=${token//[[:space:]]/} # of a file that was made on Windows, or a line that was copied
  if [ -n "$token" ]; then
    ok "a Hugging Face token is given"
  elif wants_llama && $with_weights; then
    if [ -t 0 ] && ! $dry_run; then
      say "  Llama 3.1 is given to registered people: accept its licence on https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct"
      read -rsp "  Hugging Face token (hf_..., not shown): " token
      say ''
    fi
    [ -n "$token" ] || $dry_run || fail "Llama 3.1 needs a Hugging Face token" \
      "Accept its licence on https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct, make a token (read) under Settings," \
      "then: HF_TOKEN=hf_... $0 ... (with sudo: sudo --preserve-env=HF_TOKEN). Or fetch the weights later: --no-weights"
    ! $dry_run || note "Llama 3.1 needs a Hugging Face token: HF_TOKEN=hf_... in the environment, or it is asked for"
  elif wants_llama; then
    note "no Hugging Face token: Llama 3.1 needs one before its first request (HF_TOKEN=hf_... in $ENV_FILE)"
  else
    ok "no Hugging Face token, and none needed"
  fi
  unset HF_TOKEN # commands that need it get it by with_token
}

# keep_token: what the service finds in its environment
keep_token() {
  local text=''
  if [ -e "$ENV_FILE" ] && { [ -z "$token" ] || [ "$token" = "$(kept_token)" ]; }; then
    if [ "$(stat -L -c '%a %U:%G' "$ENV_FILE")" = "640 root:$USER_NAME" ]; then
      ok "$ENV_FILE is there, and is left as it is"
    else
      run "giving $ENV_FILE to root and the service" chown "root:$USER_NAME" "$ENV_FILE"
      run "closing it to others" chmod 0640 "$ENV_FILE"
    fi
    return
  fi
  if [ -e "$ENV_FILE" ]; then
    text=$(sed '/^HF_TOKEN=/d' "$ENV_FILE")
  else
    text='# Environment of vllm-arena.service (systemd.exec, EnvironmentFile=). After a change: systemctl restart vllm-arena'
  fi
  text+=${text:+$'\n'}
  if [ -n "$token" ]; then text+="HF_TOKEN=$token"; else text+='#HF_TOKEN=hf_...'; fi
  put_file "$ENV_FILE" 0640 "root:$USER_NAME" <<<"$text"
}

# as_service COMMAND...: as the service's user
as_service() { runuser -u "$USER_NAME" -- "$@"; }

# with_token COMMAND...: with the hub's variables in its environment, not on its command line, which everybody can read
with_token() {
  (
    [ -z "$token" ] || export HF_TOKEN=$token
    export HOME=$STATE_DIR HF_HOME=$HUB
    "$@"
  )
}

hub_size() { du -s "$HUB" 2>/dev/null | cut -f1 || true; }

# fetch_weights: as the user of the service, who owns the cache
fetch_weights() {
  local before after
  before=$(hub_size)
  if ! with_token attended runuser -u "$USER_NAME" -- "$VENV/bin/arena-server" pull --config "$CONFIG"; then
    fail "not all weights could be fetched" "Run this again: what has come is kept, and a broken-off file goes on where it ended." \
      "A gated model: accept its licence on its page, with the account of the token in $ENV_FILE."
  fi
  after=$(hub_size)
  [ "$before" = "$after" ] || changes=$((changes + 1))
}
