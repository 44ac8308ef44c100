#!/usr/bin/env bash
# The demo's network without its cheats, once for each codec and seed: a line each, with the loss on held-out text and the bytes of a delta.
#   scripts/compare-codecs.sh [WINDOWS [SEEDS [CODEC…]]]       CODEC is a name below
set -euo pipefail
cd "$(dirname "$0")/.."
windows=${1:-12} seeds=${2:-1 2 3}
shift $(($# < 2 ? $# : 2))
base=target/codecs
mkdir -p $base
# A choice is no slice of the update: what earlier windows left is in it, and its cosine is below 1 for honest work too.
loose='.score += {"threshold": 0.05, "band_low": 0, "band_high": 1e9}'
change() {
  case $1 in
    dense) echo '.codec = {"name": "dense", "compression": 1, "values": "f32"}' ;;
    topk-*-* | dct-*-*) IFS=- read -r name k values <<<"$1"
      echo ".codec = {\"name\": \"$name\", \"compression\": 1, \"values\": \"$values\", \"k\": $k, \"decay\": 0.95} | $loose" ;;
    *) echo "compare-codecs: $1: dense, topk-K-VALUES or dct-K-VALUES" >&2; return 2 ;;
  esac
}
for seed in $seeds; do
  for codec in "${@:-dense topk-64-sign}"; do
    dir=$base/$codec-$seed
    if [ ! -s "$dir/summary.json" ]; then
      jq ".init_seed = $seed | $(change "$codec")" pipelines/hparams/demo.json >"$base/hparams.json"
      rm -rf "$dir"
      # The same text for all, copied once.
      if [ -d $base/text ]; then mkdir -p "$dir" && cp -r $base/text $base/heldout $base/text.json $base/heldout.json "$dir"; fi
      DEMO_DIR=$dir HPARAMS=$base/hparams.json CHEATS='' WINDOWS=$windows pipelines/demo.sh resume >"$base/$codec-$seed.log" 2>&1 || {
        tail -n 5 "$base/$codec-$seed.log" >&2
        exit 1
      }
      [ -d $base/text ] || cp -r "$dir/text" "$dir/heldout" "$dir/text.json" "$dir/heldout.json" $base
      rm -rf "$dir/nodes" "$dir/buckets"
    fi
    jq -c --arg codec "$codec" --argjson seed "$seed" \
      '{bench: "codec.loss", codec: $codec, seed: $seed, windows, loss: .loss_last, bytes: .bytes_per_delta, roots_equal}' "$dir/summary.json"
  done
done
