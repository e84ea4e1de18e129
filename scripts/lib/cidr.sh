# shellcheck shell=bash
# Address ranges as people give them on a command line; to be sourced.

# cidr_prefix RANGE: prints its length in bits (a single address has the longest); status 1 if it is no address range
cidr_prefix() {
  local address=${1%/*} bits='' most octet
  [[ $1 == */* ]] && bits=${1#*/}
  if [[ $address =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]]; then
    most=32
    for octet in ${address//./ }; do
      # 10#: a leading zero would make it octal
      ((10#$octet <= 255)) || return 1
    done
  elif ipv6_groups "$address" >/dev/null; then
    most=128
  else
    return 1
  fi
  if [[ $1 != */* ]]; then
    bits=$most
  elif ! [[ $bits =~ ^[0-9]{1,3}$ ]]; then
    return 1
  fi
  ((10#$bits <= most)) && printf '%d\n' $((10#$bits))
}

# cidr_network RANGE: prints it as firewalls keep it: with a length, without bits beyond that, and in IPv6's one short form.
# Compared as they were typed, two spellings of one range would be two ranges.
cidr_network() {
  local address=${1%/*} bits a b c d number
  bits=$(cidr_prefix "$1") || return 1
  if [[ $address == *:* ]]; then
    printf '%s/%d\n' "$(ipv6_network "$address" "$bits")" "$bits"
    return
  fi
  IFS=. read -r a b c d <<<"$address"
  number=$((((10#$a << 24) | (10#$b << 16) | (10#$c << 8) | 10#$d) & (0xffffffff << (32 - bits)) & 0xffffffff))
  printf '%d.%d.%d.%d/%d\n' $((number >> 24)) $((number >> 16 & 255)) $((number >> 8 & 255)) $((number & 255)) "$bits"
}

# ipv6_groups ADDRESS: prints its eight groups, as they are typed; status 1 if it is no address in IPv6 (RFC 4291, section 2.2)
ipv6_groups() {
  local before=$1 after='' groups='^([0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4})*)?$' least=0 missing
  local left right
  if [[ $1 == *::* ]]; then before=${1%%::*} after=${1#*::} least=1; fi
  [[ $before =~ $groups && $after =~ $groups ]] || return 1
  IFS=: read -ra left <<<"$before"
  IFS=: read -ra right <<<"$after"
  missing=$((8 - ${#left[@]} - ${#right[@]}))
  # Without "::" nothing may be missing, and with it something must be.
  ((missing >= least && (least || missing == 0))) || return 1
  while ((missing-- > 0)); do left+=(0); done
  printf '%s\n' "${left[*]}${right[*]+ ${right[*]}}"
}

# ipv6_network ADDRESS BITS: the address without what is beyond its first bits, in its one short form (RFC 5952)
ipv6_network() {
  local kept=$2 group keep text=: zeros
  for group in $(ipv6_groups "$1"); do
    keep=$((kept < 0 ? 0 : kept > 16 ? 16 : kept))
    text+=$(printf '%x' $((16#$group & 0xffff << (16 - keep) & 0xffff))):
    kept=$((kept - 16))
  done
  # The longest run of zeros, the first of several; never a single one.
  for zeros in 0:0:0:0:0:0:0:0 0:0:0:0:0:0:0 0:0:0:0:0:0 0:0:0:0:0 0:0:0:0 0:0:0 0:0; do
    if [[ $text == *":$zeros:"* ]]; then
      text=${text/:$zeros:/::}
      break
    fi
  done
  [[ $text == ::* ]] || text=${text#:}
  [[ $text == *:: ]] || text=${text%:}
  printf '%s\n' "$text"
}
