#!/usr/bin/env bash
# Clone, set up, build and install in one line:
#   curl -fsSL RAW_URL/scripts/install.sh | BZ_REPO=https://…/boltzmann.git bash
# BZ_DIR: where to clone (default ./boltzmann); PREFIX: where to install (default ~/.local).
set -euo pipefail
dir=${BZ_DIR:-boltzmann}
command -v git >/dev/null || { echo "install: git is missing: apt-get install git" >&2; exit 78; }
command -v make >/dev/null || { echo "install: make is missing: apt-get install make" >&2; exit 78; }
if [ ! -d "$dir/.git" ]; then
  [ -n "${BZ_REPO:-}" ] || { echo "install: BZ_REPO is not set" >&2; echo "hint: BZ_REPO=https://…/boltzmann.git" >&2; exit 78; }
  git clone --depth 1 "$BZ_REPO" "$dir"
fi
make -C "$dir" install
