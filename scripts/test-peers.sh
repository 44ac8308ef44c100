#!/usr/bin/env bash
# Compare with other people's programs: a state opens in Hugging Face transformers and has the loss that bz-eval says.
# Needs PyPI (transformers and what it needs) in .venv/; torch is that of .libtorch/.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ ! -f .venv/.done ]; then
  "$python" -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check transformers==4.57.1 safetensors numpy typing_extensions sympy networkx jinja2 fsspec filelock setuptools
  touch .venv/.done
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
zero=$(printf '0%.0s' {1..64})
status=0
for tied in true false; do
  export BZ_HOME=$work/$tied
  mkdir -p "$BZ_HOME" "$work/text"
  git ls-files '*.rs' | while read -r f; do cat "$f"; done >"$work/text/all.txt"
  bz-pages index --data "$work/text" --name t </dev/null >/dev/null 2>&1
  jq --argjson t $tied '.model.tie_word_embeddings = $t | .model.num_hidden_layers = 3' pipelines/hparams/demo.json >"$BZ_HOME/hparams.json"
  record='{"type":"run","run":"'$zero'","genesis":"'$zero'","netuid":1,"path":"x"}'
  run=$(bz-delta check <<<"$record" 2>&1 >/dev/null | grep -oE 'gives run [0-9a-f]{64}' | cut -d' ' -f3)
  {
    echo "${record/$zero/$run}"
    echo '{"type":"window","window":0,"run":"'"$run"'","start_block":0,"commit_block":20,"end_block":23,"deadline_block":29,"state_block":36,"block":1,"seed":"'$zero'","reveal":null}'
  } >"$work/window"
  bz-state init <"$work/window" >/dev/null
  bz-pages --role given --page 0,1 --data "$work/text" <"$work/window" >"$work/pages"
  ours=$(bz-eval --quiet --device cpu <"$work/pages" | jq 'select(.type == "eval").loss_before')
  PYTHONPATH=.libtorch .venv/bin/python - "$BZ_HOME/states/0" "$(jq -r 'select(.type == "pages").path' "$work/pages")" "$ours" <<'PY' || status=1
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
exit $status
