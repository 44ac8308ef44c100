#!/usr/bin/env bash
# Clone, set up, build and install in one line:
#   curl -fsSL RAW_URL/scripts/install.sh | BZ_REPO=https://…/boltzmann.git bash
# or, in a checkout: scripts/install.sh
# BZ_DIR: where to clone (default ./boltzmann); PREFIX: where to install (default ~/.local); TORCH_MODE=cuda: for a GPU.
set -euo pipefail
own=$(cd "$(dirname "${BASH_SOURCE[0]:-.}")/.." && pwd)
if [ -z "${BZ_REPO:-}" ] && [ -f "$own/tools/README.md" ]; then dir=$own; else dir=${BZ_DIR:-boltzmann}; fi
command -v git >/dev/null || { echo "install: git is missing: apt-get install git" >&2; exit 78; }
command -v make >/dev/null || { echo "install: make is missing: apt-get install make" >&2; exit 78; }
if [ ! -f "$dir/tools/README.md" ]; then
  [ -n "${BZ_REPO:-}" ] || { echo "install: BZ_REPO is not set" >&2; echo "hint: BZ_REPO=https://…/boltzmann.git" >&2; exit 78; }
  git clone --depth 1 "$BZ_REPO" "$dir"
fi
make -C "$dir" install
echo "installed from $dir: go on there with the README, \"Join a real network\"" >&2
