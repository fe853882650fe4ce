# Sourced by quickstart and test: installs what is missing from the distribution's packages.

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_rust() {
  command -v cargo >/dev/null || die "cargo is missing; install Rust (rustup is the usual way) and try again"
  # Rust links with the C compiler, and the allocator is built with make; on a bare machine there is none.
  need_packages gcc:cc libc6-dev:/usr/include/stdio.h make:make
}

# need_packages PACKAGE:WITNESS...   A witness is a command or, with a slash, a file that the package brings.
need_packages() {
  local missing=() pair package witness
  for pair in "$@"; do
    package=${pair%%:*} witness=${pair#*:}
    case $witness in
      */*) [ -e "$witness" ] || missing+=("$package") ;;
      *) command -v "$witness" >/dev/null || missing+=("$package") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "these are missing: ${missing[*]}. This script installs them on Debian and Ubuntu only; install them with your system's package manager and try again"
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "these packages are missing: ${missing[*]}; install them as root (apt-get install ${missing[*]})"
    sudo=(sudo)
  fi
  say "installing from the distribution's packages: ${missing[*]}"
  # A server package starts its server on the default port, now and after every boot; nothing here wants that.
  local log policy=/usr/sbin/policy-rc.d ours=false
  log=$(mktemp)
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod +x "$policy"
    ours=true
  fi
  local done=true
  { "${sudo[@]}" apt-get update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || done=false
  ! $ours || "${sudo[@]}" rm -f "$policy"
  if [[ " ${missing[*]} " == *" redis-server "* ]] && [ -d /run/systemd/system ]; then
    "${sudo[@]}" systemctl disable redis-server >>"$log" 2>&1 || true
  fi
  if ! $done; then
    tail -n 5 "$log" >&2
    die "the packages could not be installed (no network, or no such package?); the whole log is in $log"
  fi
  rm -f "$log"
}
