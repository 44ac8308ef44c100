#!/usr/bin/env bash
# One window of a cheat, for the demo: cheat.sh W, with BZ_CHEAT=noise|million|copy|lazy|picky. The tools are the honest
# ones; what is false is what they are given.
set -u
. "$(dirname "$0")/stage.sh"
W=$1
enter "$W"

start() { bz-window --window "$W" --wait start | bz-pull --state | bz-state apply; }
# Replace fields of the `train` record; a record made by hand has no hash.
retell() { jq -c "if .type == \"train\" then .blake3 = null | $1 else . end"; }
# own FIELD, of the peer that this node is.
own() { jq -r "select(.type == \"peer\" and .self).$1" "$D/started"; }
# steal NAME: what the victim has in its bucket for this window; nobody can copy before there is something to copy.
steal() {
  local base
  base=$(jq -rs --argjson W "$W" '(map(select(.type == "run"))[0].run) as $run
    | map(select(.type == "peer" and .bucket != null and (.bucket | endswith("/honest-1"))))[0]
    | "\(.bucket)/\($run)/\($W)/\(.hotkey)"' "$D/started")
  curl -sf --retry 40 --retry-delay 1 --retry-all-errors --retry-max-time 20 -o "$D/stolen-$1" "$base/$1"
}
# between PROGRAM: the stream on stdin with a record that the program makes of its records, before its `end`.
between() { jq -c --slurp --arg D "$D" "${@:2}" ".[:-1][], ($1), .[-1]"; }

if [ ! -s "$D/commit" ]; then
  case $BZ_CHEAT in
    lazy) # one step instead of all
      jq '.inner.steps = 1' "$BZ_HOME/hparams.json" >"$BZ_HOME/lazy.json"
      start | bz-pages | bz-train --hparams "$BZ_HOME/lazy.json" | bz-delta commit | bz-push >"$D/commit.part"
      ;;
    picky) # trains on pages of its own choice, and says they are the ones it was given
      start | bz-pages >"$D/pages.own"
      bz-pages --role given --page 0,1 <"$D/pages.own" |
        jq -c --slurp '(map(select(.type == "pages" and .role == "own"))[0]) as $own | .[]
          | if .type == "pages" and .role == "given" then . + {uid: $own.uid, role: "own", pages: $own.pages}
            elif .type == "pages" then empty else . end' |
        bz-train | bz-delta commit | bz-push >"$D/commit.part"
      ;;
    noise | million)
      start | bz-pages | bz-train >"$D/trained"
      kind=noise
      [ "$BZ_CHEAT" = million ] && kind=scale
      python3 "$here/cheat.py" "$kind" "$(jq -r 'select(.type == "train").path' "$D/trained")" "$D/spoiled.safetensors"
      retell ".path = \"$D/spoiled.safetensors\"" <"$D/trained" | bz-delta commit | bz-push >"$D/commit.part"
      ;;
    copy) # even windows: the very bytes that the victim uploaded; odd: the victim's update under its own commitment
      start >"$D/started"
      steal commit.json || exit 1
      if [ $((W % 2)) -eq 0 ]; then
        between '(map(select(.type == "window"))[0]) as $w | {type: "commit", window: $w.window, run: $w.run, uid: $uid,
          hotkey: $own, commitment: ("0" * 64), signature: "", path: "\($D)/stolen-commit.json"}' \
          --arg own "$(own hotkey)" --argjson uid "$(own uid)" <"$D/started" | bz-push >"$D/commit.part"
      else
        between '$theirs[] | select(.type == "train") | .uid = $uid' --argjson uid "$(own uid)" \
          --slurpfile theirs "$BZ_HOME/../honest-1/windows/$W/commit" <"$D/started" | bz-delta commit | bz-push >"$D/commit.part"
      fi
      ;;
  esac
  finish "$D/commit" "${PIPESTATUS[@]}" || exit
fi

if [ ! -s "$D/receipt" ]; then
  if [ "$BZ_CHEAT" = copy ] && [ $((W % 2)) -eq 0 ]; then
    bz-window --window "$W" --wait reveal <"$D/commit" >"$D/revealed" || exit
    steal delta.safetensors || exit 1
    between '(map(select(.type == "commit"))[-1]) as $c | {type: "delta", window: $c.window, uid: $c.uid, hotkey: $c.hotkey,
      path: "\($D)/stolen-delta.safetensors", bytes: 0, status: "ok"}' <"$D/revealed" | bz-push >"$D/receipt.part"
  else
    bz-window --window "$W" --wait reveal <"$D/commit" | bz-delta make | bz-push >"$D/receipt.part"
  fi
  finish "$D/receipt" "${PIPESTATUS[@]}" || exit
fi
