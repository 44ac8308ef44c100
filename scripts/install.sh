#!/usr/bin/env bash
# Clone, set up, build and install in one line:
#   curl -fsSL RAW_URL/scripts/install.sh | BZ_REPO=https://…/boltzmann.git bash
# or, in a checkout: scripts/install.sh
# BZ_DIR: where to clone (default ./boltzmann); PREFIX: where to install (default ~/.local); TORCH_MODE=cuda: for a GPU.
set -euo pipefail
own=$(cd "$(dirname "${BASH_SOURCE[0]:-.}")/.." && pwd)
if [ -z "${BZ_REPO:-}" ] && [ -f "$own/tools/README.md" ]; then dir=$own; else dir=${BZ_DIR:-boltzmann}; fi
# The rest is brought by `make` (scripts/system.sh), once there is one, and a checkout.
if ! command -v git >/dev/null || ! command -v make >/dev/null; then
  as=()
  [ "$(id -u)" = 0 ] || as=(sudo -n)
  echo "install: git or make is missing: apt-get install git make (SETUP_APT=no keeps this off)" >&2
  if [ "${SETUP_APT:-yes}" = no ] || ! "${as[@]}" apt-get -qq update >&2 || ! "${as[@]}" apt-get -qqy install git make >&2; then
    echo "hint: apt-get install git make" >&2
    exit 78
  fi
fi
if [ ! -f "$dir/tools/README.md" ]; then
  [ -n "${BZ_REPO:-}" ] || { echo "install: BZ_REPO is not set" >&2; echo "hint: BZ_REPO=https://…/boltzmann.git" >&2; exit 78; }
  git clone --depth 1 "$BZ_REPO" "$dir"
fi
make -C "$dir" install
echo "installed from $dir: go on there with the README, \"Join a real network\"" >&2
