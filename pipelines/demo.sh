#!/usr/bin/env bash
# A whole network on this machine: three honest miners, five cheats, one validator, for WINDOWS windows.
#
#   pipelines/demo.sh            anew
#   pipelines/demo.sh resume     go on where the last one stopped, for as many windows more
#   CHEATS= HPARAMS=FILE         without cheats, or with some of them; of another run (scripts/compare-codecs.sh)
#   DEVICE=cuda                  on a GPU, and with a model of 26 million parameters in bf16; without one it says so and
#                                ends
#
# It ends with 1, and says why, where a cheat is paid or an honest miner is not, roots differ, a loop ends early, or the
# loss does not fall.
set -u
. "$(dirname "$0")/settings.sh"
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
  larger='.model += {hidden_size: 512, intermediate_size: 1408, num_hidden_layers: 8, num_attention_heads: 8,
      num_key_value_heads: 4}
    | .inner += {dtype: "bf16", lr: 0.001, batch: 32, micro_batch: null} | .data.pages_per_window = 8'
fi
nodes="validator $honest $cheats"
began=$(date +%s)
pids=''
declare -A pid_of=() hotkey_of=()

stop() {
  trap - EXIT INT TERM
  # A loop ends what it runs, and then itself.
  for pid in $pids; do kill "$pid" 2>/dev/null; done
  wait
  bz-localnet --dir "$root" down
}
trap 'stop; exit 130' INT TERM
trap stop EXIT

for tool in curl python3 cargo; do
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
    '.start_window = (($block / .clock.blocks | floor) + 1)
      | .data.manifest = ($text[] | select(.manifest) | .manifest) | '"$larger" \
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
  case $node in validator) role=validator ;; honest-*) role=miner ;; *) role=cheat ;; esac
  threads=$BZ_THREADS
  [ "$node" != validator ] || threads=2
  # A loop writes its own log, and leads a group of its own: what a terminal sends to this script comes to it by `stop`
  # alone.
  BZ_ENV=$home/env BZ_HOME=$home BZ_CHEAT=$node BZ_THREADS=$threads setsid "$here/loop.sh" $role $last >/dev/null 2>&1 &
  pids="$pids $!"
  pid_of[$node]=$!
done

# One line a window: block, loss on held-out text, each peer's score, or status where that is not ok, and weight.
validator=$root/nodes/validator
export BZ_HOME=$validator
for node in $honest $cheats; do
  hotkey_of[$node]=$(jq -r .ss58Address "$root/wallets/$node/hotkeys/defaultpub.txt")
done
names=$(for node in $honest $cheats; do echo "$node ${hotkey_of[$node]}"; done |
  jq -Rnc '[inputs | split(" ") | {name: .[0], hotkey: .[1]}]')
heldout_loss() { # heldout_loss W: nats a token of the state that window W trains from
  [ -s "$root/heldout.pages" ] || {
    jq -c 'select(.type == "run" or .type == "window")' "$validator/windows/$first/base" |
      bz-pages --role given --page 0,1,2,3,4,5,6,7 --data "$root/heldout" -o "$root/heldout.safetensors" |
      jq -c 'select(.type == "pages")' >"$root/heldout.pages"
  }
  bz-eval --quiet --state "$validator/states/$1" <"$root/heldout.pages" | jq -r 'select(.type == "eval").loss_before'
}
line() { # line W LOSS, in the columns of the line above them
  jq -rs --argjson W "$1" --argjson names "$names" --argjson loss "$2" '
    def rounded(digits): . * pow(10; digits) | round / pow(10; digits);
    def cell(width): tostring | . + " " * (width - length) + " ";
    def by_hotkey(kind): map(select(.type == kind)) | INDEX(.hotkey);
    by_hotkey("delta") as $delta | by_hotkey("score") as $score
    | (map(select(.type == "window" and .window == $W))[-1]) as $w
    | (map(select(.type == "weights"))[-1] | [.hotkeys, .weights] | transpose
        | map({(.[0]): .[1]}) | add // {}) as $weight
    | ("window \($W) block \($w.block) loss \($loss | rounded(3))" | cell(31))
      + ($names | map(.hotkey as $key | ($delta[$key].status // "-") as $status
          | (if $status == "ok" then $score[$key].score // 0 | rounded(2) else $status end) as $judged
          | "\($judged)/\($weight[$key] // 0 | rounded(2))" | cell(8)) | add)' "$validator/windows/$1"/{scores,weights}
}
gave_up() { # gave_up WHAT LOG
  echo "demo: $1 stopped; the end of its log, $2:" >&2
  tail -n 5 "$2" >&2
  echo "hint: make demo RESUME=1 goes on from here" >&2
  exit 1
}
echo "demo: a line a window; of each peer its score, or what was wrong, and its weight (the first in half a minute)" >&2
# shellcheck disable=SC2086
printf '%31s' '' && printf ' %-8s' $honest $cheats && echo
for W in $(seq "$first" "$last"); do
  waited=0 away=0
  until [ -s "$validator/windows/$W/weights" ]; do
    sleep 0.3
    kill -0 "${pid_of[validator]}" 2>/dev/null || [ -s "$validator/windows/$W/weights" ] ||
      gave_up 'the validator' "$validator/log"
    # Who stopped the network has a minute to start it again.
    waited=$((waited + 1))
    if [ $((waited % 10)) -eq 0 ]; then
      if bz-localnet --dir "$root" status >/dev/null 2>&1; then away=0; else away=$((away + 1)); fi
      [ $away -lt 20 ] || gave_up 'bz-localnet' "$root/log"
    fi
  done
  [ "$W" != "$first" ] || [ -s "$root/loss_first" ] || heldout_loss "$first" >"$root/loss_first"
  loss=$(heldout_loss $((W + 1)))
  line "$W" "$loss"
done

# What has to be so, and is not, is named; the numbers are shown in any case.
faults=()
# After the last window each loop ends by itself; a minute is for who reveals last.
for node in $nodes; do
  for ((waited = 0; waited < 600; waited++)); do
    kill -0 "${pid_of[$node]}" 2>/dev/null || break
    sleep 0.1
  done
  if [ $waited -eq 600 ]; then
    faults+=("the loop of $node did not end with the last window")
    kill "${pid_of[$node]}"
    wait "${pid_of[$node]}"
  else
    wait "${pid_of[$node]}" ||
      faults+=("the loop of $node ended with status $?: the end of $root/nodes/$node/log says why")
  fi
done

# Every node's root of every window against the validator's.
roots_equal=true
for W in $(seq "$first" "$last"); do
  ours=$(jq -r .root "$validator/states/$W/state.json")
  for node in $honest $cheats; do
    theirs=$(jq -r .root "$root/nodes/$node/states/$W/state.json" 2>/dev/null)
    [ "$theirs" != "$ours" ] || continue
    roots_equal=false
    faults+=("$node has ${theirs:-no state} for window $W, the validator $ours")
  done
done

# weights WHO: what the last window's weights give each of these, a line each: name and weight.
weights() {
  local node
  for node in $1; do echo "$node ${hotkey_of[$node]}"; done |
    jq -Rrn --slurpfile all "$validator/windows/$last/weights" '
    ($all | map(select(.type == "weights"))[-1] | [.hotkeys, .weights] | transpose
      | map({(.[0]): .[1]}) | add // {}) as $weight
    | inputs | split(" ") | "\(.[0]) \(($weight[.[1]] // 0) + 0)"'
}
extreme() { jq -Rn "[inputs | split(\" \")[1] | tonumber] | $1"; }
honest_min=$(weights "$honest" | extreme min)
cheat_max=$(weights "$cheats" | extreme max)
while read -r node weight; do
  [ "$weight" != 0 ] || faults+=("$node is honest, and is not paid")
done < <(weights "$honest")
while read -r node weight; do
  [ "$weight" = 0 ] || faults+=("$node cheats, and is paid: a weight of $weight")
done < <(weights "$cheats")
loss_first=$(cat "$root/loss_first")
jq -en --argjson from "$loss_first" --argjson to "$loss" \
  '[$from, $to | type] == ["number", "number"] and $to < $from' >/dev/null ||
  faults+=("the loss on held-out text did not fall: $loss_first to $loss")

per_delta=$(cat "$validator"/windows/*/pulled |
  jq -s '[.[] | select(.type == "delta" and .status == "ok").bytes] | max')
dense=$(jq 'select(.type == "train").bytes' "$root/nodes/honest-1/windows/$last/commit" | head -n 1)
train_s=$(cat "$root"/nodes/*/windows/*/{commit,scores} 2>/dev/null |
  jq -s '[.[] | select(.type == "train" and .tokens_per_s > 0) | .tokens / .tokens_per_s] | add | . * 10 | round / 10')
jq -n --argjson windows "$((last - first + 1))" --argjson loss_first "$loss_first" --argjson loss_last "$loss" \
  --argjson honest_weight_min "$honest_min" --argjson cheat_weight "$cheat_max" --argjson roots_equal $roots_equal \
  --argjson bytes_per_delta "$per_delta" --argjson dense_bytes "${dense:-null}" \
  --argjson wall_s $(($(date +%s) - began)) --argjson train_s "${train_s:-0}" '$ARGS.named' >"$root/summary.json"

jq -r '
  def rounded: . * 100 | round / 100;
  "",
  "The loss on held-out text fell from \(.loss_first | rounded) to \(.loss_last | rounded) nats a token in"
    + " \(.windows) windows.",
  "The least honest weight is \(.honest_weight_min), the greatest of a cheat \(.cheat_weight)."
    + " All state roots equal: \(.roots_equal).",
  "A delta has \(.bytes_per_delta) bytes, the whole update \(.dense_bytes). \(.wall_s) s, of which training"
    + " \(.train_s) s."' "$root/summary.json"
short=${root#"$PWD"/}
cat <<TXT

Files: $short/summary.json, $short/nodes/*/windows/*, $short/nodes/*/states/* (Hugging Face directories)

Try next:
  jq -r 'select(.type=="score") | [.uid, .raw, .score, .reason] | @tsv' $short/nodes/validator/windows/$last/scores
  make demo RESUME=1
TXT
if [ ${#faults[@]} -gt 0 ]; then
  printf 'demo: %s\n' "${faults[@]}" >&2
  echo "hint: the logs are $short/nodes/*/log and $short/log; make demo RESUME=1 goes on from here" >&2
  exit 1
fi
