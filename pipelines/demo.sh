#!/usr/bin/env bash
# A whole network on this machine: three honest miners, five cheats, one validator, for WINDOWS windows.
#
#   pipelines/demo.sh            anew
#   pipelines/demo.sh resume     go on where the last one stopped, for as many windows more
#   CHEATS= HPARAMS=FILE         without cheats, or with some of them; of another run (scripts/compare-codecs.sh)
#   DEVICE=cuda                  on a GPU, and with a model of 26 million parameters in bf16; without one it says so and ends
set -u
. "$(dirname "$0")/stage.sh"
# The settings of a real node are not the demo's.
for setting in ${!BZ_@} ${!BT_@}; do
  [ "$setting" = BZ_INTERVAL ] || unset "$setting"
done
root=${DEMO_DIR:-target/demo}
windows=${WINDOWS:-12}
honest='honest-1 honest-2 honest-3'
cheats=${CHEATS-noise million copy lazy picky}
hparams=${HPARAMS:-$here/hparams/demo.json}
larger=.
export BZ_DEVICE=${DEVICE:-auto}
if [ "$BZ_DEVICE" = cuda ]; then
  bz-train --hparams "$hparams" --quiet </dev/null >/dev/null || exit
  larger='.model += {hidden_size: 512, intermediate_size: 1408, num_hidden_layers: 8, num_attention_heads: 8, num_key_value_heads: 4}
    | .inner += {dtype: "bf16", lr: 0.001, batch: 32, micro_batch: null} | .data.pages_per_window = 8'
fi
nodes="validator $honest $cheats"
began=$(date +%s)
pids=
validator_pid=

stop() {
  trap - EXIT INT TERM
  # Each loop leads a process group of its own: its stages end with it.
  for pid in $pids; do kill -- "-$pid" 2>/dev/null; done
  bz-localnet --dir "$root" down
}
trap 'stop; exit 130' INT TERM
trap stop EXIT

for tool in curl python3 setsid cargo; do
  command -v $tool >/dev/null || die 78 "$tool is missing" "apt-get install $tool"
done

if [ "${1:-anew}" = anew ]; then
  [ -f "$root/localnet.json" ] && bz-localnet --dir "$root" down
  if [ -d "$root" ] && [ ! -d "$root/nodes" ] && [ ! -d "$root/text" ] && [ -n "$(ls -A "$root")" ]; then
    die 2 "$root is a folder of something else" 'DEMO_DIR names a folder that the demo may remove'
  fi
  rm -rf "$root"
fi
mkdir -p "$root"
root=$(cd "$root" && pwd)

# The text: Rust and Markdown sources of the dependencies that cargo fetched. One file in fifty is held out.
if [ ! -f "$root/text/manifest.json" ]; then
  rm -rf "$root/text" "$root/heldout"
  mkdir -p "$root/text" "$root/heldout"
  cargo metadata --format-version 1 --offline --locked --filter-platform x86_64-unknown-linux-gnu |
    jq -r '.packages[] | select(.source != null) | .manifest_path | rtrimstr("/Cargo.toml")' | sort |
    while read -r package; do find "$package" -type f \( -name '*.rs' -o -name '*.md' \) -size +4k -size -256k; done |
    LC_ALL=C sort | awk 'NR % 4 == 0' | head -n 4000 |
    {
      place=0
      while read -r file; do
        place=$((place + 1))
        to=text
        [ $((place % 50)) -eq 0 ] && to=heldout
        cp "$file" "$root/$to/$(printf '%05d' $place)-${file##*/}"
      done
    }
  bz-pages index --data "$root/heldout" --name heldout </dev/null >"$root/heldout.json" || exit
  bz-pages index --data "$root/text" --name demo </dev/null >"$root/text.json" || exit
fi

echo "demo: starting chain and store, registering $(echo $nodes | wc -w) nodes" >&2
export BZ_INTERVAL=${BZ_INTERVAL:-0.5}
# shellcheck disable=SC2086
"$here/localnet.sh" "$root" $nodes || exit

# The run begins at the next window but one: everybody is there by then.
if [ ! -f "$root/hparams.json" ]; then
  block=$(bz-localnet --dir "$root" status | jq .block)
  jq --argjson block "$block" --slurpfile text "$root/text.json" \
    '.start_window = (($block / .clock.blocks | floor) + 1) | .data.manifest = ($text[] | select(.manifest) | .manifest) | '"$larger" \
    "$hparams" >"$root/hparams.json.part" && mv "$root/hparams.json.part" "$root/hparams.json"
fi
blocks=$(jq .clock.blocks "$root/hparams.json")
if [ -s "$root/last" ]; then
  first=$(($(bz-localnet --dir "$root" status | jq .block) / blocks + 1))
else
  first=$(jq .start_window "$root/hparams.json")
fi
last=$((first + windows - 1))
echo $last >"$root/last"

export BZ_DATA=$root/text BZ_KEEP_STATES=100000 BZ_THREADS=${BZ_THREADS:-1} OMP_NUM_THREADS=1
for node in $nodes; do
  home=$root/nodes/$node
  cp "$root/hparams.json" "$home/hparams.json"
  (
    export BZ_ENV=$home/env BZ_HOME=$home
    case $node in
      validator) BZ_THREADS=2 exec setsid "$here/loop.sh" validator $last ;;
      honest-*) exec setsid "$here/loop.sh" miner $last ;;
      *) BZ_CHEAT=$node exec setsid "$here/loop.sh" cheat $last ;;
    esac
  ) >>"$home/log" 2>&1 &
  pids="$pids $!"
  [ "$node" = validator ] && validator_pid=$!
done

# One line a window: block, loss on held-out text, each peer's status, score and weight.
validator=$root/nodes/validator
export BZ_HOME=$validator
names=$(for node in $honest $cheats; do
  printf '{"name":"%s","hotkey":"%s"}\n' "$node" "$(jq -r .ss58Address "$root/wallets/$node/hotkeys/defaultpub.txt")"
done | jq -c --slurp .)
heldout_loss() { # heldout_loss W: nats a token of the state that window W trains from
  [ -s "$root/heldout.pages" ] || {
    jq -c 'select(.type == "run" or .type == "window")' "$validator/windows/$first/base" |
      bz-pages --role given --page 0,1,2,3,4,5,6,7 --data "$root/heldout" -o "$root/heldout.safetensors" |
      jq -c 'select(.type == "pages")' >"$root/heldout.pages"
  }
  bz-eval --quiet --state "$validator/states/$1" <"$root/heldout.pages" | jq -r 'select(.type == "eval").loss_before'
}
line() { # line W LOSS
  local scores=$validator/windows/$1/scores weights=$validator/windows/$1/weights
  jq -r --slurp --argjson names "$names" --arg loss "$2" --slurpfile weights "$weights" '
    (map(select(.type == "delta")) | INDEX(.hotkey)) as $delta | (map(select(.type == "score")) | INDEX(.hotkey)) as $score
    | (map(select(.type == "window"))[-1]) as $w
    | ($weights | map(select(.type == "weights"))[-1]) as $weight
    | "window \($w.window)  block \($w.block)  loss \($loss | tonumber | . * 1000 | round / 1000)  "
      + ($names | map(. as $n | ($weight.hotkeys | index($n.hotkey)) as $at
        | "\(.name) \($delta[.hotkey].status // "-") \(($score[.hotkey].score // 0) * 100 | round / 100)/\((if $at == null then 0 else $weight.weights[$at] end) * 100 | round / 100)")
        | join("  "))' "$scores"
}
gave_up() { # gave_up WHAT LOG
  echo "demo: $1 stopped; the end of its log, $2:" >&2
  tail -n 5 "$2" >&2
  echo "hint: make demo RESUME=1 goes on from here" >&2
  exit 1
}
echo "demo: a line a window; for each peer: status score/weight (the first in half a minute)" >&2
for W in $(seq "$first" "$last"); do
  waited=0 away=0
  until [ -s "$validator/windows/$W/weights" ]; do
    sleep 0.3
    kill -0 "$validator_pid" 2>/dev/null || [ -s "$validator/windows/$W/weights" ] || gave_up 'the validator' "$validator/log"
    # Who stopped the network has a minute to start it again.
    waited=$((waited + 1))
    if [ $((waited % 10)) -eq 0 ]; then
      if bz-localnet --dir "$root" status >/dev/null 2>&1; then away=0; else away=$((away + 1)); fi
      [ $away -lt 20 ] || gave_up 'bz-localnet' "$root/log"
    fi
  done
  if [ "$W" = "$first" ]; then
    loss_first=$(heldout_loss "$first")
    [ -s "$root/loss_first" ] || echo "$loss_first" >"$root/loss_first"
  fi
  loss=$(heldout_loss $((W + 1)))
  line "$W" "$loss"
done
wait

# Every node's root of every window that it knows, against the validator's.
roots_equal=true
for W in $(seq "$first" "$last"); do
  ours=$(jq -r .root "$validator/states/$W/state.json")
  for node in $honest $cheats; do
    state=$root/nodes/$node/states/$W/state.json
    if [ ! -s "$state" ]; then echo "demo: $node has no state of window $W" >&2; roots_equal=false; continue; fi
    [ "$(jq -r .root "$state")" = "$ours" ] || roots_equal=false
  done
done
weight_of() { jq -r --arg key "$(echo "$names" | jq -r --arg n "$1" '.[] | select(.name == $n).hotkey')" \
  'select(.type == "weights") | (.hotkeys | index($key)) as $at | if $at == null then 0 else .weights[$at] end' \
  "$validator/windows/$last/weights"; }
honest_min=$(for node in $honest; do weight_of "$node"; done | jq -s min)
cheat_max=$(for node in $cheats; do weight_of "$node"; done | jq -s max)
per_delta=$(cat "$validator"/windows/*/pulled | jq -s '[.[] | select(.type == "delta" and .status == "ok").bytes] | max')
dense=$(jq 'select(.type == "train").bytes' "$root/nodes/honest-1/windows/$last/commit" | head -n 1)
train_s=$(cat "$root"/nodes/*/windows/*/{commit,scores} 2>/dev/null | jq -s '[.[] | select(.type == "train" and .tokens_per_s > 0) | .tokens / .tokens_per_s] | add | . * 10 | round / 10')
jq -n --argjson windows "$((last - first + 1))" --argjson loss_first "$(cat "$root/loss_first")" --argjson loss_last "$loss" \
  --argjson honest_weight_min "$honest_min" --argjson cheat_weight "$cheat_max" --argjson roots_equal $roots_equal \
  --argjson bytes_per_delta "$per_delta" --argjson dense_bytes "$dense" --argjson wall_s $(($(date +%s) - began)) \
  --argjson train_s "${train_s:-0}" '$ARGS.named' >"$root/summary.json"

jq -r '"
The loss on held-out text fell from \(.loss_first | . * 100 | round / 100) to \(.loss_last | . * 100 | round / 100) nats a token in \(.windows) windows.
The least honest weight is \(.honest_weight_min), the greatest of a cheat \(.cheat_weight). All state roots equal: \(.roots_equal).
A delta has \(.bytes_per_delta) bytes, the whole update \(.dense_bytes). \(.wall_s) s, of which training \(.train_s) s."' "$root/summary.json"
short=${root#"$PWD"/}
cat <<TXT

Files: $short/summary.json, $short/nodes/*/windows/*, $short/nodes/*/states/* (Hugging Face directories)

Try next:
  jq -r 'select(.type=="score") | [.uid, .raw, .score, .reason] | @tsv' $short/nodes/validator/windows/$last/scores
  make demo RESUME=1
TXT
