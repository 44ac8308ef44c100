#!/usr/bin/env bash
# Training beside PyTorch in one run: eager, torch.compile, and torch.compile with the allocator settings that bz-train
# has, all of the same wheels. JSON lines into target/bench/train.jsonl. Takes turns, ROUNDS times, and counts the
# median: a machine is not the same for ten minutes.
#   bench-train.sh [MODEL [DTYPE]]   MODEL tiny, 124m, 350m, boltzmann; DTYPE f32, bf16. Without: tiny and 124m in both
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/bench
mkdir -p $out
python=$(scripts/peers.sh torch)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
device=${BZ_DEVICE:-$([ -e /proc/driver/nvidia ] && echo cuda || echo cpu)}
threads=${THREADS:-$(nproc)}
rounds=${ROUNDS:-3}
keep='MALLOC_MMAP_THRESHOLD_=2147483647 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=67108864'
mkdir -p "$work/text"
git ls-files '*.rs' '*.md' | while read -r f; do cat "$f"; done >"$work/text/all.txt"
manifest=$(bz-pages index --data "$work/text" --name bench </dev/null 2>/dev/null | jq -r 'select(.manifest).manifest')
: >$out/train.jsonl
# For all of them: threads that wait do not spin.
export OMP_WAIT_POLICY=PASSIVE

one() { # one MODEL DTYPE
  local model=$1 dtype=$2 length batch steps warm
  # Steps enough that the first ones, in which memory is touched and code compiled, are few; the first WARM are not
  # counted at all.
  case $model:$device in
    tiny:*) length=256 batch=8 steps=20 warm=4 ;;
    *:cpu) length=${LENGTH:-512} batch=2 steps=6 warm=2 ;;
    *) length=2048 batch=${BATCH:-16} steps=20 warm=5 ;;
  esac
  export BZ_HOME=$work/$model-$dtype
  mkdir -p "$BZ_HOME"
  jq --arg m "$manifest" --arg d "$dtype" --argjson l "$length" --argjson b "$batch" --argjson s "$steps" '
    .data = {source: "bench", manifest: $m, tokenizer: null, sequence_length: $l, rows_per_page: 16,
        pages_per_window: 1, max_uids: 1}
    | .inner = {optimizer: "adamw", steps: $s, batch: $b, lr: 0.001, beta1: 0.9, beta2: 0.95, eps: 1e-8,
        weight_decay: 0.1, clip: 1.0, dtype: $d}
    ' "pipelines/hparams/$model.json" >"$BZ_HOME/hparams.json"
  scripts/offline-window.sh "$BZ_HOME/hparams.json" >"$work/window"
  bz-state init <"$work/window" >/dev/null
  bz-pages --role given --page 0 --data "$work/text" <"$work/window" >"$BZ_HOME/pages"
  local pages
  pages=$(jq -r 'select(.type == "pages").path' "$BZ_HOME/pages")
  : >"$work/runs"
  for _ in $(seq "$rounds"); do
    # What a run of the first steps alone takes is taken off.
    for most in "$warm" "$steps"; do
      jq --argjson s "$most" '.inner.steps = $s' "$BZ_HOME/hparams.json" >"$work/hparams.json"
      bz-train --force --quiet --device "$device" --threads "$threads" --hparams "$work/hparams.json" \
        <"$BZ_HOME/pages" | jq -c 'select(.type == "train")'
    done | jq -sc '.[0] as $first | .[1] | (.tokens - $first.tokens) as $tokens | . + {name: "ours",
      cpu: ((.cpu_s - $first.cpu_s) / $tokens),
      wall: ((.forward_backward_s + .optimizer_s - $first.forward_backward_s - $first.optimizer_s) / $tokens)}
      ' >>"$work/runs"
    for peer in eager compile compile-same-allocator; do
      local settings=
      [ "$peer" = "${peer%-same*}" ] || settings=$keep
      # shellcheck disable=SC2086
      env $settings "$python" scripts/peer_llama.py "$BZ_HOME/hparams.json" "$BZ_HOME/states/0" "$pages" "$threads" \
        "${peer%-same*}" "$warm" "$device" 2>"$work/error" |
        jq -c --arg n "$peer" '. + {name: $n, wall: (.wall_s / .tokens), cpu: (.cpu_s / .tokens)}' >>"$work/runs" || {
        tail -n 3 "$work/error" >&2
        exit 1
      }
    done
  done
  local flop
  flop=$(jq -s 'map(select(.name == "ours"))[0]
    | .model_flop_per_s * (.forward_backward_s + .optimizer_s) / .tokens' "$work/runs")
  jq -sc --argjson flop "$flop" --arg bench "train.$model.$dtype.$device" --argjson t "$threads" '
    def median(f): map(f) | sort | .[length / 2 | floor];
    (map(select(.name == "ours"))) as $ours
    | ("eager", "compile", "compile-same-allocator") as $peer | map(select(.name == $peer)) as $theirs
    | ($ours | median(.wall)) as $a | ($theirs | median(.wall)) as $b
    | {bench: "\($bench).\($peer)", unit: "tokens/s", threads: $t,
       ours: (1 / $a | round), peer: (1 / $b | round), peer_name: "torch 2.11 \($peer)",
       ratio: ($b / $a * 100 | round / 100),
       ratios: [range($ours | length) as $i | $theirs[$i].wall / $ours[$i].wall * 100 | round / 100],
       cpu_ratio: (($theirs | median(.cpu)) / ($ours | median(.cpu)) * 100 | round / 100),
       memory_MB: ($ours | median(.peak_memory_bytes) / 1e6 | round),
       peer_memory_MB: ($theirs | median(.peak_memory_bytes) / 1e6 | round),
       memory_ratio:
         (($theirs | median(.peak_memory_bytes)) / ($ours | median(.peak_memory_bytes)) * 100 | round / 100),
       model_gflop_per_s: ($flop / $a / 1e9 | round),
       load_data_write_s: ($ours | median(.load_s + .data_s + .write_s) * 1000 | round / 1000),
       loss: ($ours | map(.loss_after) | first), peer_loss: ($theirs | map(.loss_after) | first)}
    ' "$work/runs" | tee -a $out/train.jsonl
}

echo "bench: training on $device, $threads threads, $rounds rounds" >&2
for model in ${1:-tiny 124m}; do
  for dtype in ${2:-f32 bf16}; do one "$model" "$dtype"; done
done
