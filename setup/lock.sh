#!/usr/bin/env bash
# Resolve requirements.in and requirements-dev.in to lock files with hashes. No registry address
# is written into them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compile=(.venv/bin/pip-compile --quiet --allow-unsafe --generate-hashes --no-emit-find-links
  --no-emit-index-url --no-emit-trusted-host --strip-extras)
"${compile[@]}" --output-file=requirements.lock requirements.in
"${compile[@]}" --output-file=requirements-dev.lock requirements-dev.in
