#!/usr/bin/env bash
# Install the Debian packages of packages.txt that are missing. Root or a user with sudo.
#
# No service is started: a policy-rc.d of ours, there only while apt runs, refuses every service
# that is not running already, and PostgreSQL's package is told to make no cluster of its own.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=setup/step.sh
. "$here/step.sh"

mark="# placed by innkeeper's set-up while packages are installed"
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d/innkeeper-setup.conf

missing_packages() {
  local wanted
  wanted=$(sed 's/#.*//' "$here/packages.txt" | tr -s '[:space:]' '\n' | sed '/^$/d' | sort)
  # dpkg-query fails when a name is unknown; what it prints is what counts.
  comm -23 <(printf '%s\n' "$wanted") \
    <({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null || true; } |
      sed -n 's/^installed //p' | sort)
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

withdraw() {
  if grep -qsF "$mark" "$policy"; then as_root rm -f "$policy"; fi
  as_root rm -f "$clusters"
}

hold_services() {
  if [ ! -e "$policy" ]; then
    printf '%s\n' '#!/bin/sh' "$mark" \
      'systemctl is-active --quiet "$1" 2>/dev/null && exit 0' \
      'exit 101' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
  fi
  as_root mkdir -p "$(dirname "$clusters")"
  printf '%s\ncreate_main_cluster = false\n' "$mark" | as_root tee "$clusters" >/dev/null
}

install_packages() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  as_root "${apt[@]}" update
  as_root "${apt[@]}" install --no-install-recommends "$@"
}

if ! command -v dpkg-query >/dev/null; then
  echo "This set-up knows Debian's packages only; install the ones in setup/packages.txt by hand" \
    "and set INNKEEPER_SKIP_PACKAGES=1." >&2
  [ "${INNKEEPER_SKIP_PACKAGES:-}" = 1 ] || exit 1
  exit 0
fi
mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -eq 0 ] || [ "${INNKEEPER_SKIP_PACKAGES:-}" = 1 ]; then
  step_line packages "nothing missing" 0
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "These packages are missing: ${missing[*]}. Run this as root, or install sudo." >&2
    exit 1
  }
  sudo -v # ask for the password before the clock starts
fi
trap withdraw EXIT
hold_services
step packages "installing ${#missing[@]}: ${missing[*]:0:4}…" "${#missing[@]} installed" \
  install_packages "${missing[@]}"
