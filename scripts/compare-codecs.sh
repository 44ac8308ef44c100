#!/usr/bin/env bash
# The demo's network without its cheats, once for each codec and seed: a line each, with the loss on held-out text and the bytes of a delta.
#   scripts/compare-codecs.sh [WINDOWS [SEEDS [CODEC…]]]       CODEC is a name below
# The outer optimizer is SGD with 1.0, as SparseLoCo has it: what is left of a choice is a momentum of its own. `dense-own` is dense with the demo's own.
set -euo pipefail
cd "$(dirname "$0")/.."
windows=${1:-32} seeds=${2:-1 2 3}
shift $(($# < 2 ? $# : 2))
base=target/codecs
mkdir -p $base
dense='{"name": "dense", "compression": 1, "values": "f32"}'
outer='.outer |= (.optimizer = "sgd" | .lr = 1.0 | .lr_final = 1.0)'
# A choice is no slice of the update: what earlier windows left is in it, and its cosine is below 1 for honest work too.
loose='.score += {"threshold": 0.05, "band_low": 0, "band_high": 1e9}'
change() {
  case $1 in
    dense) echo ".codec = $dense | $outer" ;;
    dense-own) echo ".codec = $dense" ;;
    topk-*-* | dct-*-*) IFS=- read -r name k values <<<"$1"
      echo ".codec = {\"name\": \"$name\", \"compression\": 1, \"values\": \"$values\", \"k\": $k, \"decay\": 0.95} | $outer | $loose" ;;
    *) echo "compare-codecs: $1: dense, dense-own, topk-K-VALUES or dct-K-VALUES" >&2; return 2 ;;
  esac
}
for seed in $seeds; do
  for codec in ${*:-dense topk-64-sign dct-512-sign}; do
    dir=$base/$codec-$seed-$windows
    if [ ! -s "$dir/counted" ]; then
      jq ".init_seed = $seed | $(change "$codec")" pipelines/hparams/demo.json >"$base/hparams.json"
      rm -rf "$dir"
      # The same text for all, copied once.
      if [ -d $base/text ]; then mkdir -p "$dir" && cp -r $base/text $base/heldout $base/text.json $base/heldout.json "$dir"; fi
      DEMO_DIR=$dir HPARAMS=$base/hparams.json CHEATS='' WINDOWS=$windows pipelines/demo.sh resume >"$dir.log" 2>&1 || {
        tail -n 5 "$dir.log" >&2
        exit 1
      }
      [ -d $base/text ] || cp -r "$dir/text" "$dir/heldout" "$dir/text.json" "$dir/heldout.json" $base
      # A delta that came late is a step less: how many counted.
      cat "$dir"/nodes/validator/windows/*/pulled |
        jq -s 'map(select(.type == "delta")) | group_by([.window, .uid]) | map(last | select(.status == "ok")) | length' >"$dir/counted"
      rm -rf "$dir/nodes" "$dir/buckets"
    fi
    # One window's loss is off by up to a quarter of a nat: the mean of the last quarter's says more.
    tail=$(awk -v from=$((windows * 3 / 4)) '/^window / && ++line > from {sum += $6; count++} END {print sum / count}' "$dir.log")
    jq -c --arg codec "$codec" --argjson seed "$seed" --argjson counted "$(cat "$dir/counted")" --argjson tail "$tail" \
      '{bench: "codec.loss", codec: $codec, seed: $seed, windows, deltas: $counted, loss: $tail, loss_last, bytes: .bytes_per_delta, roots_equal}' "$dir/summary.json"
  done
done
