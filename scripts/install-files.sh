#!/usr/bin/env bash
# Copy the release build into PREFIX/bin, and point PREFIX/lib/boltzmann at libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${PREFIX:-$HOME/.local}
mkdir -p "$prefix/bin" "$prefix/lib"
for crate in tools/bz-*; do
  install -m 755 "target/release/${crate##*/}" "$prefix/bin/"
done
# The binaries look for libtorch in ../lib/boltzmann/torch/lib.
ln -sfn "$PWD/.libtorch" "$prefix/lib/boltzmann"
echo "installed into $prefix/bin" >&2
case ":$PATH:" in *":$prefix/bin:"*) ;; *) echo "hint: add $prefix/bin to PATH" >&2 ;; esac
