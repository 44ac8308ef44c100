#!/usr/bin/env bash
# Speed, side by side, as JSON lines into target/bench/: start-up, window overhead, the codecs beside
# SparseLoCo's in PyTorch, and the memory that deltas and states of a larger model take.
# Window overhead is that of the last demo's network (make demo first). PyTorch is that of the same wheels, see
# scripts/peers.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/bench
mkdir -p $out
python=$(scripts/peers.sh torch)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "bench: start-up" >&2
: >$out/start.jsonl
"$python" - "$out/start.jsonl" <<'PY'
import json, resource, subprocess, sys, time

def best(command, runs=11):
    times = []
    for _ in range(runs):
        start = time.time()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append((time.time() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return min(t[0] for t in times) * 1e3, min(t[1] for t in times) * 1e3

peer, peer_cpu = best([sys.executable, "-c", "import argparse, json"], 5)
with open(sys.argv[1], "w") as out:
    for tool in "window pages delta state push pull score setweights chain localnet train eval".split():
        wall, cpu = best([f"bz-{tool}", "--help"])
        line = {"bench": f"start.bz-{tool}", "unit": "ms", "ours": round(wall, 2), "cpu_ms": round(cpu, 2),
                "peer": round(peer, 2), "peer_name": "python3 -c 'import argparse, json'",
                "ratio": round(peer / wall, 2)}
        print(json.dumps(line)); out.write(json.dumps(line) + "\n")
PY

demo=target/demo
if [ -f $demo/summary.json ]; then
  echo "bench: window overhead: every stage of a miner's last window of the demo, run again" >&2
  node=$PWD/$demo/nodes/honest-1
  W=$(ls "$node/windows" | sort -n | tail -n 1)
  (
    set -a
    . "$node/env"
    set +a
    export BZ_DATA=$PWD/$demo/text BZ_THREADS=2
    "$python" - "$node/windows/$W" "$work" <<'PY' | tee $out/window.jsonl
import json, resource, subprocess, sys, time

window, work = sys.argv[1:]
records = [json.loads(l) for l in open(f"{window}/commit")]
prev = [r for r in records if r["type"] == "state"][-1]["path"]
stages = {
    "state": (["bz-state", "verify", prev], "/dev/null"),
    "pages": (["bz-pages", "--force", "-o", f"{work}/pages"], f"{window}/commit"),
    "train": (["bz-train", "--quiet", "--force", "--device", "cpu", "-o", f"{work}/update"], f"{window}/commit"),
    "commit": (["bz-delta", "commit", "--force", "-o", f"{work}/commit"], f"{window}/commit"),
    "make": (["bz-delta", "make", "--force", "-o", f"{work}/delta"], f"{window}/receipt"),
    "push": (["bz-push", "--dry-run"], f"{window}/receipt"),
}
wall, cpu = {}, {}
for name, (command, source) in stages.items():
    used = lambda: (lambda r: r.ru_utime + r.ru_stime)(resource.getrusage(resource.RUSAGE_CHILDREN))
    t, c = time.time(), used()
    out = subprocess.run(command, stdin=open(source), stdout=subprocess.PIPE, check=True).stdout
    wall[name], cpu[name] = round(time.time() - t, 3), round(used() - c, 3)
    if name == "train":
        train = [r for r in map(json.loads, out.splitlines()) if r["type"] == "train"][-1]
# What bz-train takes beyond the steps (its start, the load, the write) is overhead too.
steps = train["tokens"] / train["tokens_per_s"]
total = sum(wall.values())
print(json.dumps({"bench": "window.overhead", "unit": "share of a miner's seconds", "ours": round(1 - steps / total, 3),
    "training_s": round(steps, 3), "total_s": round(total, 3), "stages_s": wall, "stages_cpu_s": cpu,
    "peer": None, "peer_name": None, "ratio": None}))
PY
  )
fi

mkdir -p "$work/text" "$work/home"
git ls-files '*.rs' '*.md' | while read -r f; do cat "$f"; done >"$work/text/all.txt"
manifest=$(bz-pages index --data "$work/text" --name bench </dev/null 2>/dev/null | jq -r 'select(.manifest).manifest')
jq --arg m "$manifest" '.data.manifest = $m | .data.rows_per_page = 8 | .data.pages_per_window = 1 | .data.max_uids = 1
  | .inner.steps = 24 | .model.hidden_size = 256 | .model.intermediate_size = 704 | .model.num_hidden_layers = 4
  | .data.sequence_length = 256 | .inner.batch = 8' pipelines/hparams/demo.json >"$work/home/hparams.json"
export BZ_HOME=$work/home
# No chain is needed: records of its own.
scripts/offline-window.sh "$work/home/hparams.json" >"$work/window"
bz-state init <"$work/window" >/dev/null
bz-pages --role given --page 0 --data "$work/text" <"$work/window" >"$work/pages"
bz-train --quiet --device cpu <"$work/pages" >"$work/update"

echo "bench: codecs, on the update of that window" >&2
cargo build --release --locked -q -p wire --example codec
update=$(find "$work/home/windows/0" -name '*.safetensors' -size +1M | head -n 1)
: >$out/codec.jsonl
for threads in 1 2; do
  peer=$("$python" scripts/peer_codec.py "$update" $threads 16)
  target/release/examples/codec "$update" $threads 16 | jq -c --argjson peer "$peer" '
    $peer[.bench] as $theirs
    | . + (if $theirs == null then {peer: null, peer_name: null, ratio: null}
      else {peer: ($theirs * 1000 | round / 1000), peer_name: "SparseLoCo in torch 2.11",
            ratio: ((if .bench == "codec.bits" then $theirs / .ours else .ours / $theirs end) * 100 | round / 100)}
      end)' | tee -a $out/codec.jsonl
done

[ -f $demo/summary.json ] || exit 0
echo "bench: memory, a model of 124 million parameters" >&2
export BZ_HOME=$work/large BT_WALLET_PATH=$PWD/$demo/wallets BT_WALLET_NAME=honest-1 BT_WALLET_HOTKEY=default
mkdir -p "$BZ_HOME"
codecs=(
  '"topk", "values": "sign", "compression": 1, "k": 64, "decay": 0.95'
  '"slice", "values": "bf16", "compression": 4'
  '"dense", "values": "f32", "compression": 1'
)
zeros=$(printf '0%.0s' {1..64}) ones=$(printf '1%.0s' {1..64})
for codec in "${codecs[@]}"; do
  rm -rf "$BZ_HOME/states" "$BZ_HOME/windows" "$BZ_HOME/feedback"
  jq --arg zeros "$zeros" --argjson codec "{\"name\": $codec}" '
    .data.manifest = $zeros | .codec = $codec | .score += {threshold: 0.05}
    | .model += {vocab_size: 50257, hidden_size: 768, intermediate_size: 2048, num_hidden_layers: 12,
        num_attention_heads: 12, num_key_value_heads: 12}' pipelines/hparams/demo.json >"$BZ_HOME/hparams.json"
  scripts/offline-window.sh "$BZ_HOME/hparams.json" | sed "s/\"reveal\":null/\"reveal\":\"$ones\"/" >"$work/window"
  bz-state init <"$work/window" >"$work/state"
  "$python" - "$work" <<'PY' | tee -a $out/codec.jsonl
import json, os, subprocess, sys

work = sys.argv[1]
home = os.environ["BZ_HOME"]
state = json.load(open(f"{home}/states/0/state.json"))
bare = [json.loads(l) for l in open(f"{work}/window")]
# The state's own parameters are as good an update as any.
update = f"{home}/states/0/model.safetensors"
train = {"type": "train", "window": 0, "uid": 1, "role": "own", "path": update, "bytes": os.path.getsize(update),
    "blake3": None, "base": state["root"], "pages": "0" * 64, "steps": 1, "tokens": 1, "loss_before": 1.0,
    "loss_after": 1.0, "tokens_per_s": 1.0, "cpu_s": 1.0, "device": "cpu", "status": "ok"}

def peak(name, command, records, size):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write("".join(json.dumps(r) + "\n" for r in records).encode())
    process.stdin.close()
    out, error = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(error.decode())
    codec = json.load(open(f"{home}/hparams.json"))["codec"]["name"]
    print(json.dumps({"bench": f"memory.{name}.{codec}", "unit": "MB", "ours": round(used.ru_maxrss * 1024 / 1e6),
        "state": round(size / 1e6), "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peer": None, "peer_name": None, "ratio": None}), flush=True)
    return [json.loads(l) for l in out.splitlines()]

size = os.path.getsize(update)
for window in range(2):
    # The second time with what the first one left.
    name = "bz-delta make" + (" with feedback" if window else "")
    made = peak(name, ["bz-delta", "make", "--force"], bare + [train], size)
    left = f"{home}/feedback/1.safetensors"
    if not os.path.exists(left):
        break
    os.rename(left, f"{home}/feedback/0.safetensors")
delta = next(r for r in made if r["type"] == "delta")
entry = {"uid": 1, "hotkey": delta["hotkey"], "blake3": delta["blake3"], "weight_u16": 65535, "scale": 1.0}
accept = {"type": "accept", "window": 0, "accepted": [entry], "norm_median": 1.0}
peak("bz-state apply", ["bz-state", "apply"], bare + [delta, accept], 2 * size)
PY
done
