# shellcheck shell=bash disable=SC2034,SC2154  # the parts of the set-up share variables, named below
# Proxy and service; to be sourced, after config.sh.
# Reads $source_dir, $allowed, $http_port, $https_port, $daemon_port and $with_nginx.

readonly TLS=/etc/vllm-arena/tls ALLOW_LIST=/etc/vllm-arena/nginx-allow.conf
readonly SITE=/etc/nginx/sites-available/vllm-arena ENABLED=/etc/nginx/sites-enabled
readonly UNIT=/etc/systemd/system/vllm-arena.service

# make_certificate: self-signed, until there is a better one
make_certificate() {
  local host
  if [ -s "$TLS/cert.pem" ] && [ -s "$TLS/key.pem" ]; then
    ok "the certificate is there: $TLS/cert.pem"
    return
  fi
  # In subjectAltName alone: a common name holds 64 characters, which names in clouds exceed, and clients ignore it.
  host=$(hostname -f 2>/dev/null || hostname)
  folder "$TLS" 0755 root:root
  run "making a self-signed certificate" env -C "$TLS" sh -c 'umask 077; exec "$@"' sh openssl req -x509 -newkey ec \
    -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 825 -subj /CN=vllm-arena \
    -addext "subjectAltName=DNS:$host,DNS:localhost,IP:127.0.0.1" -keyout key.pem -out cert.pem
  run "letting everybody read it" chmod 0644 "$TLS/cert.pem"
  note "clients must be told to trust it, or put a better one in its place (cert.pem, key.pem) and: systemctl reload nginx"
}

# write_allow_list: who may come in from outside; by default nobody. Ranges are added to a list that is there.
write_allow_list() {
  local range text
  if [ ! -e "$ALLOW_LIST" ]; then
    text='# Who may come in, for nginx; written by setup_vllm_multi_model.sh. After a change: systemctl reload nginx'
    for range in 127.0.0.0/8 ::1 "${allowed[@]}"; do text+=$'\n'"allow $range;"; done
    text+=$'\ndeny all;'
  else
    text=$(<"$ALLOW_LIST")
    # nginx lets in whom no rule keeps out.
    grep -Eq '^[[:space:]]*deny[[:space:]]+all[[:space:]]*;' <<<"$text" ||
      fail "$ALLOW_LIST lets everybody in: it has no line \`deny all;\`" "Write that as its last line, or remove the file and run this again."
    for range in "${allowed[@]}"; do
      is_allowed "$range" "$text" ||
        text=$(awk -v new="allow $range;" '!done && /^[ \t]*deny[ \t]+all[ \t]*;/ { print new; done = 1 } 1' <<<"$text")
    done
    if [ "$text" = "$(<"$ALLOW_LIST")" ]; then
      ok "$ALLOW_LIST is there, and is left as it is"
      return
    fi
  fi
  put_file "$ALLOW_LIST" 0644 root:root <<<"$text"
}

# is_allowed RANGE TEXT: true if the list has that range
is_allowed() {
  local wanted there
  wanted=$(cidr_network "$1")
  while read -r there; do
    if [ "$(cidr_network "$there" || true)" = "$wanted" ]; then return 0; fi
  done < <(sed -nE 's/^[[:space:]]*allow[[:space:]]+([^;[:space:]]+)[[:space:]]*;.*/\1/p' <<<"$2")
  return 1
}

# site: the checkout's, with this machine's ports
site() {
  local address='' no_ipv6='/listen \[::\]:/d'
  [ "$https_port" = 443 ] || address=":$https_port"
  [ ! -e /proc/net/if_inet6 ] || no_ipv6=''
  sed -E "s/^( *listen (\[::\]:)?)80;/\1$http_port;/; s/^( *listen (\[::\]:)?)443 /\1$https_port /
    s|https://\\\$host\\\$request_uri|https://\$host$address\$request_uri|
    s/127\.0\.0\.1:8000 /127.0.0.1:$daemon_port /; $no_ipv6" "$source_dir/nginx/vllm-arena.conf"
}

install_site() {
  local text
  text=$(site)
  put_conffile "$SITE" 0644 root:root <<<"$text"
  if [ -e "$ENABLED/vllm-arena" ]; then
    ok "$ENABLED/vllm-arena is there"
  else
    run "enabling the site" ln -sfn ../sites-available/vllm-arena "$ENABLED/vllm-arena"
  fi
  # Debian's welcome page is the default server of port 80, so it would answer in place of the redirect.
  if [ -L "$ENABLED/default" ] || $dry_run; then
    if $dry_run || untouched /etc/nginx/sites-available/default nginx-common; then
      run "taking nginx's welcome page off" rm -f "$ENABLED/default"
    else
      note "$ENABLED/default is no longer Debian's own: left in place; see that it leaves port $http_port to vllm-arena"
    fi
  fi
}

# untouched PATH PACKAGE: true if the file is as Debian's package brought it
untouched() {
  dpkg-query -W -f='${Conffiles}\n' "$2" 2>/dev/null | grep -qF " $1 $(md5sum <"$1" | cut -d' ' -f1)"
}

# older UNIT TIMESTAMP PATH...: true if one of the files was written after the unit came to the state it is in. Not what this
# run has changed: an earlier one may have installed something, and failed before it could restart what uses it.
older() {
  local since path
  since=$(TZ=UTC systemctl show "$1" --property="$2" --value)
  since=$(date -d "$since" +%s)
  shift 2
  for path in "$@"; do
    if [ -e "$path" ] && (($(stat -c %Y "$path") > since)); then return 0; fi
  done
  return 1
}

start_nginx() {
  $dry_run || nginx -t >>"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "nginx does not accept its configuration (above)"; }
  if [ "$(systemctl is-enabled nginx 2>/dev/null || true)" != enabled ]; then run "enabling nginx" systemctl enable nginx; fi
  if [ "$(systemctl is-active nginx 2>/dev/null || true)" != active ]; then
    run "starting nginx" systemctl start nginx
  elif older nginx StateChangeTimestamp "$SITE" "$ENABLED" "$ALLOW_LIST" "$TLS"/*.pem; then
    run "reloading nginx" systemctl reload nginx
  else
    ok "nginx runs"
  fi
}

install_unit() {
  local file drop_ins=$source_dir/systemd/vllm-arena.service.d
  unit_changed=false
  put_file "$UNIT" 0644 root:root <"$source_dir/systemd/vllm-arena.service"
  [ "$put" = unchanged ] || unit_changed=true
  if [ -d "$drop_ins" ]; then
    folder "$UNIT.d" 0755 root:root
    for file in "$drop_ins"/*.conf; do
      if [ ! -e "$file" ] || ! suits "$file"; then continue; fi
      put_file "$UNIT.d/${file##*/}" 0644 root:root <"$file"
      [ "$put" = unchanged ] || unit_changed=true
    done
  fi
  if $unit_changed; then run "telling systemd" systemctl daemon-reload; fi
}

# suits FILE: true if this systemd is new enough for a drop-in with a number in its name ("254-..."); others suit all
suits() {
  local needed=${1##*/} have
  needed=${needed%%[^0-9]*}
  have=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  ((${have:-0} >= ${needed:-0}))
}

start_service() {
  local verb=start
  if [ "$(systemctl is-enabled vllm-arena 2>/dev/null || true)" != enabled ]; then
    run "enabling the service" systemctl enable vllm-arena
  fi
  if [ "$(systemctl is-active vllm-arena 2>/dev/null || true)" = active ]; then
    if ! older vllm-arena ActiveEnterTimestamp "$INSTALLED" "$UNIT" "$UNIT.d" "$ENV_FILE"; then
      ok "vllm-arena runs"
      return
    fi
    verb=restart
  fi
  # One that failed too often in a row would be refused, though the cause is mended now.
  if systemctl is-failed --quiet vllm-arena; then run "forgetting its failures" systemctl reset-failed vllm-arena; fi
  # Type=notify: it comes back when the daemon says that it is ready.
  local command=(systemctl "$verb" vllm-arena)
  $dry_run || command=(or_journal "${command[@]}")
  run "${verb}ing vllm-arena" "${command[@]}"
}

# or_journal COMMAND...: if it fails, what the service itself said: systemctl only says that it failed
or_journal() {
  if "$@"; then return; fi
  journalctl -u vllm-arena -n 15 --no-pager -o cat
  return 1
}

# asks_for_keys: true if the daemon lets nobody in without one
asks_for_keys() {
  [ "$(curl -s -o /dev/null --max-time 60 -w '%{http_code}' "http://127.0.0.1:$daemon_port/v1/models" || true)" = 401 ]
}

smoke_test() {
  local url=http://127.0.0.1:$daemon_port options=(--timeout 1800)
  if $with_nginx; then
    url=https://127.0.0.1
    [ "$https_port" = 443 ] || url+=:$https_port
    options+=(--insecure) # its certificate is in the name of the machine
  fi
  if [ -z "${ARENA_API_KEY:-}" ] && ! $dry_run && asks_for_keys; then
    note "not tried: the daemon asks for an API key. Put one with the scope inference into ARENA_API_KEY, and: scripts/smoke_test.sh $url ${options[*]}"
    return
  fi
  attended "$source_dir/scripts/smoke_test.sh" "$url" "${options[@]}" ||
    fail "the smoke test failed" "The daemon's log: journalctl -u vllm-arena; the models: $VENV/bin/arena-server status"
}
