#!/usr/bin/env bash
# Compare with other people's programs: the chain side with Bittensor's Python SDK, btcli and their libraries, both ways; deltas
# with a decoder in Python (of dense, topk and dct it was written from FORMAT.md alone), states too; models of transformers
# are taken in, and have its logits; a state opens in transformers and has the loss that bz-eval says. Needs PyPI: see scripts/peers.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
chain=$(scripts/peers.sh chain)
work=$(mktemp -d)
trap 'bz-localnet --dir "$work/net" down; rm -rf "$work"' EXIT
status=0
examples=$(dirname "$(command -v bz-window)")/examples
"$chain" scripts/peer_yuma.py "$examples/yuma" || status=1
# The SDK keeps files of its own in HOME.
mkdir "$work/home"
HOME=$work/home "$chain" scripts/peer_chain.py "$(dirname "$examples")" "$work" || status=1
mkdir "$work/deltas"
"$examples/delta" "$work/deltas"
"$chain" tests/decode.py "$work/deltas" || status=1
python=$(scripts/peers.sh torch)
mkdir "$work/models"
"$python" scripts/peer_models.py "$examples" "$work/models" || status=1
for tied in true false; do
  export BZ_HOME=$work/$tied
  mkdir -p "$BZ_HOME" "$work/text"
  git ls-files '*.rs' | while read -r f; do cat "$f"; done >"$work/text/all.txt"
  bz-pages index --data "$work/text" --name t </dev/null >/dev/null 2>&1
  jq --argjson t $tied '.model.tie_word_embeddings = $t | .model.num_hidden_layers = 3' pipelines/hparams/demo.json >"$BZ_HOME/hparams.json"
  scripts/offline-window.sh "$BZ_HOME/hparams.json" >"$work/window"
  bz-state init <"$work/window" >/dev/null
  bz-pages --role given --page 0,1 --data "$work/text" <"$work/window" >"$work/pages"
  ours=$(bz-eval --quiet --device cpu <"$work/pages" | jq 'select(.type == "eval").loss_before')
  "$python" - "$BZ_HOME/states/0" "$(jq -r 'select(.type == "pages").path' "$work/pages")" "$ours" <<'PY' || status=1
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokens = load_file(sys.argv[2])["tokens"].long()
with torch.no_grad():
    logits = model(tokens[:, :-1]).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), tokens[:, 1:].flatten()).item()
ours = float(sys.argv[3])
print(f"{type(model).__name__}: transformers {theirs:.6f}, bz-eval {ours:.6f}, difference {abs(ours - theirs):.1e}")
sys.exit(0 if abs(ours - theirs) < 1e-4 else 1)
PY
done
# The same steps by each optimizer, here and in PyTorch, untied, every sequence once: of text that is learned by heart bf16 makes percents, in either
# program. Muon's iteration is in bf16: its roundings grow sooner.
export BZ_HOME=$work/steps
mkdir -p "$BZ_HOME"
jq '.model.tie_word_embeddings = false | .model.num_hidden_layers = 3 | .data.rows_per_page = 30 | .inner.steps = 200 | .inner.lr = 0.001' pipelines/hparams/demo.json >"$BZ_HOME/hparams.json"
bz-pages index --data "$work/text" --name t </dev/null >/dev/null 2>&1
scripts/offline-window.sh "$BZ_HOME/hparams.json" >"$work/window"
bz-state init <"$work/window" >/dev/null
bz-pages --role given --page 0,1 --data "$work/text" <"$work/window" >"$work/pages"
for run in 'adamw 200 f32 0.0001' 'adamw 200 bf16 0.01' 'muon 60 f32 0.001'; do
  read -r optimizer steps dtype most <<<"$run"
  jq --arg o "$optimizer" --argjson n "$steps" --arg d "$dtype" '.inner.optimizer = $o | .inner.steps = $n | .inner.dtype = $d' "$BZ_HOME/hparams.json" >"$work/steps.json"
  ours=$(bz-train --quiet --force --device cpu --threads 2 --hparams "$work/steps.json" --state "$BZ_HOME/states/0" -o "$work/update" <"$work/pages" | jq -c 'select(.type == "train")')
  theirs=$("$python" scripts/peer_llama.py "$work/steps.json" "$BZ_HOME/states/0" "$(jq -r 'select(.type == "pages").path' "$work/pages")" 2)
  jq -nr --arg name "$optimizer $dtype" --argjson most "$most" --argjson o "$ours" --argjson t "$theirs" '
    (($o.loss_after - $t.loss_after) / $t.loss_after | fabs) as $far
    | "\($name), \($o.steps) steps: loss \($o.loss_before) to \($o.loss_after), in PyTorch \($t.loss_after), relative difference \($far)",
      (if $far < $most then empty else error("too far") end)' || status=1
done
exit $status
