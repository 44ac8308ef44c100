#!/usr/bin/env bash
# A network on this machine: localnet.sh DIR NODE... makes chain, store, and the folder of each node with its settings.
# A node whose name begins with `validator` gets stake.
set -eu
dir=$1
shift
mkdir -p "$dir"
bz-localnet --dir "$dir" up --interval "${BZ_INTERVAL:-1}" >"$dir/up.json"
# While nodes join, a block is made as soon as one is asked for.
while bz-localnet --dir "$dir" new-block >/dev/null 2>&1; do sleep 0.05; done &
hurry=$!
trap 'kill $hurry 2>/dev/null' EXIT
for node in "$@"; do
  home=$dir/nodes/$node
  mkdir -p "$home"
  case $node in validator*) stake=1000 ;; *) stake=0 ;; esac
  bz-localnet --dir "$dir" join "$node" --stake "$stake" >"$home/env.part"
  printf 'BZ_HOME=%q\n' "$(cd "$home" && pwd)" >>"$home/env.part"
  mv "$home/env.part" "$home/env"
done
