# Sourced by the set-up scripts: one line of progress for each step, the noise in a log file.
# shellcheck shell=bash

INNKEEPER_SETUP_LOG="${INNKEEPER_SETUP_LOG:-${XDG_CACHE_HOME:-$HOME/.cache}/innkeeper/setup.log}"
mkdir -p "$(dirname "$INNKEEPER_SETUP_LOG")"

# Print one finished line: step_line NAME TEXT SECONDS
step_line() {
  printf '  %-10s %s (%s s)\n' "$1" "$2" "$3"
}

# Run a command quietly with a clock: step NAME DOING DONE command [argument…]
# When it fails, the end of its output is shown and the script ends with its code.
step() {
  local name="$1" doing="$2" done_text="$3" begin=$SECONDS code=0 child start
  shift 3
  start=$(date +%s.%N)
  : >"$INNKEEPER_SETUP_LOG"
  "$@" >>"$INNKEEPER_SETUP_LOG" 2>&1 &
  child=$!
  if [ -t 1 ]; then
    while kill -0 "$child" 2>/dev/null; do
      printf '\r  %-10s %s … %d s ' "$name" "$doing" $((SECONDS - begin))
      sleep 0.2
    done
    printf '\r\033[K'
  else
    printf '  %-10s %s …\n' "$name" "$doing"
  fi
  wait "$child" || code=$?
  if [ "$code" -ne 0 ]; then
    printf '  %-10s failed with code %d; the end of %s:\n' "$name" "$code" "$INNKEEPER_SETUP_LOG" >&2
    tail -n 25 "$INNKEEPER_SETUP_LOG" >&2
    exit "$code"
  fi
  step_line "$name" "$done_text" "$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN{printf "%.1f", b-a}')"
}
