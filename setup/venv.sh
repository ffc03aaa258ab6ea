#!/usr/bin/env bash
# Build .venv from requirements.lock, with hashes. `venv.sh dev` adds requirements-dev.lock.
# A stamp holds the hash of what was installed, so a second run does nothing.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
venv="$root/.venv"
# shellcheck source=setup/step.sh
. "$here/step.sh"

locks=("$root/requirements.lock")
[ "${1:-}" = dev ] && locks+=("$root/requirements-dev.lock")

choose_python() {
  local candidate
  # Debian's own first: libvirt-python is compiled against its headers.
  for candidate in /usr/bin/python3 python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer with its venv module is needed; install python3 and python3-venv." >&2
  exit 1
}

build() {
  # A venv that was moved, or whose interpreter is gone, is built anew.
  if ! "$venv/bin/python" -c "import sys; sys.exit(sys.prefix != '$venv')" 2>/dev/null; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
  fi
  local arguments=() lock
  for lock in "${locks[@]}"; do arguments+=(-r "$lock"); done
  # The lock names everything, so nothing is resolved: the pip of Debian 12 cannot match an extra
  # like sqlalchemy[asyncio] to its hash.
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --no-deps "${arguments[@]}"
  "$venv/bin/python" -m pip check --disable-pip-version-check
  # The checkout itself is importable, and its command is beside the interpreter.
  "$venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" |
    { read -r site && printf '%s\n' "$root" >"$site/innkeeper-checkout.pth"; }
  printf '%s\n' "#!$venv/bin/python" 'import sys' \
    'from innkeeper.cli.main import main' 'sys.exit(main())' >"$venv/bin/innkeeper"
  chmod 0755 "$venv/bin/innkeeper"
  rm -f "$venv"/.innkeeper-stamp-*
  : >"$stamp"
}

python="$(choose_python)"
key=$( (cat "${locks[@]}" "${BASH_SOURCE[0]}"; echo "$root $python"; "$python" -V) | sha256sum | cut -c1-16)
stamp="$venv/.innkeeper-stamp-${1:-base}-$key"
# The packages of the tests are a superset: who has them needs no other run.
if [ "${1:-}" != dev ]; then
  full=$( (cat "${locks[@]}" "$root/requirements-dev.lock" "${BASH_SOURCE[0]}"; echo "$root $python"; "$python" -V) 2>/dev/null | sha256sum | cut -c1-16)
  [ -e "$venv/.innkeeper-stamp-dev-$full" ] && stamp="$venv/.innkeeper-stamp-dev-$full"
fi
exec 9>"$root/.venv.lock"
flock 9
if [ -e "$stamp" ] && [ -x "$venv/bin/python" ]; then
  step_line python "packages as locked" 0
else
  step python "installing the locked packages" "packages as locked" build
fi
