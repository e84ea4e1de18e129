# shellcheck shell=bash disable=SC2034,SC2154  # the parts of the set-up share variables, named below
# What the set-up says while it works, and the ways in which it changes the machine; to be sourced.
# Nothing is changed anywhere else than through `run`, `attended` and `put_file`: so --dry-run changes nothing, and $changes
# tells whether anything was different from what it should be.

log=/dev/null       # the output of every command; set once it may be written
dry_run=false
changes=0           # so far
step_name=''        # the step in hand, for error messages
step_number=0
running=''          # the process of the command in hand
put=''              # what put_file did last
readonly TOLD=99    # status of a subshell that has said itself what failed
readonly KEPT_SUMS=/opt/vllm-arena/conffiles # sha256 of the editable files, as the set-up wrote them

say() { printf '%s\n' "$*"; }
ok() { say "  ok: $*"; }
note() { say "  note: $*"; }

# fail WHAT [HOW TO GO ON...]: ends the set-up
fail() {
  {
    printf '\nset-up: %s%s\n' "${step_name:+step \"$step_name\": }" "$1"
    shift
    [ $# = 0 ] || printf '        %s\n' "$@"
    [ "$log" = /dev/null ] || printf '        The whole log is %s. What is done stays done: mend the cause, and run this again.\n' "$log"
  } >&2
  ((BASH_SUBSHELL == 0)) || exit "$TOLD"
  exit 1
}

# interrupted: at Ctrl-C. What runs in the background does not get that signal, and would go on without us.
interrupted() {
  [ -z "$running" ] || kill "$running" 2>/dev/null || true
  fail "interrupted"
}

# begin NAME: the next step
begin() {
  step_name=$1
  step_number=$((step_number + 1))
  say "[$step_number] $step_name"
  printf '\n== %s, %s\n' "$step_name" "$(date -Is)" >>"$log"
}

# shown COMMAND...: the command as one could type it
shown() {
  local word line=''
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then line+=" $word"; else line+=" '$word'"; fi
  done
  printf '%s' "${line# }"
}

# run WHAT COMMAND...: a change; output goes to the log, and the terminal sees that it goes on
run() {
  local what=$1 start=$SECONDS pid last shown_s=0
  shift
  changes=$((changes + 1))
  if $dry_run; then
    say "  would run: $(shown "$@")"
    return
  fi
  printf '$ %s\n' "$(shown "$@")" >>"$log"
  "$@" >>"$log" 2>&1 9>&- &
  pid=$!
  running=$pid
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    if [ -t 1 ]; then
      last=$(tail -n 1 "$log" | tr -dc '[:print:]')
      printf '\r\033[K  %s ... %d s  %s' "$what" $((SECONDS - start)) "${last:0:60}"
    elif ((SECONDS - start >= shown_s + 15)); then
      shown_s=$((SECONDS - start))
      say "  $what ... $shown_s s"
    fi
  done
  [ ! -t 1 ] || printf '\r\033[K'
  running=''
  if ! wait "$pid"; then
    tail -n 20 "$log" | sed 's/^/    | /' >&2
    fail "$what failed (above: the end of what it said)"
  fi
  say "  $what: $((SECONDS - start)) s"
}

# attended COMMAND...: a command with progress of its own, which the terminal sees as it is
attended() {
  if $dry_run; then
    say "  would run: $(shown "$@")"
    return
  fi
  printf '$ %s\n' "$(shown "$@")" >>"$log"
  "$@" 9>&-
}

# put_file PATH MODE OWNER:GROUP: standard input becomes the file, if it is not yet; sets $put to written or unchanged.
# It says for itself what fails: where it stands in an `if`, `&&` or `||`, bash would go on after a write that failed, and an
# allow list that is empty lets everybody in. The input has to be whole: whoever makes it does so before the pipe.
put_file() {
  local path=$1 mode=$2 owner=$3 new draft=$1.draft
  put=unchanged
  new=$(mktemp) || fail "no temporary file can be made"
  cat >"$new" || { rm -f "$new"; fail "$new cannot be written$(room_at "$new")"; }
  # Compared before anything is laid beside it: whether a folder was changed decides what is started again.
  if cmp -s "$new" "$path" && [ "$(stat -c '%a %U:%G' "$path")" = "${mode#0} $owner" ]; then
    ok "$path is as it should be"
  else
    put=written
    changes=$((changes + 1))
    if $dry_run; then
      say "  would write $path ($mode $owner)"
    else
      # Into place in one piece: a service that reads it now finds the old or the new one, never a half.
      { install -m "$mode" -o "${owner%:*}" -g "${owner#*:}" "$new" "$draft" && mv -f "$draft" "$path"; } ||
        { rm -f "$draft" "$new"; fail "$path cannot be written$(room_at "$path")"; }
      say "  wrote $path"
    fi
  fi
  rm -f "$new"
}

# room_at PATH: of its disk, for who could not write there
room_at() {
  local free
  free=$(df -h --output=avail "$(dirname "$1")" 2>/dev/null | tail -n 1 | tr -d ' ' || true)
  printf '%s' "${free:+ ($free free there)}"
}

# put_conffile PATH MODE OWNER:GROUP: as put_file, but a file that somebody has edited since is left, and the new one laid
# beside ($put is edited)
put_conffile() {
  local path=$1 new sum last kept=$KEPT_SUMS
  new=$(mktemp) || fail "no temporary file can be made"
  cat >"$new" || fail "$new cannot be written$(room_at "$new")"
  last=$(sed -n "s|  $path\$||p" "$kept" 2>/dev/null || true)
  if [ -f "$path" ] && ! cmp -s "$new" "$path" && [ "$(sha256sum <"$path" | cut -d' ' -f1)" != "$last" ]; then
    note "$path was edited here: left as it is; what the set-up would write is $path.new"
    put_file "$path.new" "$2" "$3" <"$new"
    put=edited
  else
    put_file "$path" "$2" "$3" <"$new"
    sum=$(sha256sum <"$new" | cut -d' ' -f1) || fail "$new cannot be read"
    if ! $dry_run && [ "$sum" != "$last" ]; then
      { grep -v "  $path\$" "$kept" 2>/dev/null || true; printf '%s  %s\n' "$sum" "$path"; } >"$kept.new" ||
        fail "$kept.new cannot be written$(room_at "$kept")"
      mv -f "$kept.new" "$kept" || fail "$kept cannot be written"
    fi
  fi
  rm -f "$new"
}

# folder PATH MODE OWNER:GROUP: makes it; one that is there (a disk mounted there, say) gets that owner and mode
folder() {
  if [ -d "$1" ] && [ "$(stat -L -c '%a %U:%G' "$1")" = "${2#0} $3" ]; then return; fi
  run "making $1" install -d -m "$2" -o "${3%:*}" -g "${3#*:}" "$1"
}
