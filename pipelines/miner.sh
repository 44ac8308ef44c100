#!/usr/bin/env bash
# One window of a miner: miner.sh W. A stage whose receipt is there is not run again.
set -u
. "$(dirname "$0")/stage.sh"
W=$1
enter "$W"

# Catch up with the state, train on the own pages, bind the update.
if [ ! -s "$D/commit" ]; then
  bz-window --window "$W" --wait start | bz-pull --state | bz-state apply | bz-pages | bz-train |
    bz-delta commit | bz-push >"$D/commit.part"
  finish "$D/commit" "${PIPESTATUS[@]}" || exit
fi

# The window is over: reveal the tiles that its last block drew.
if [ ! -s "$D/receipt" ]; then
  bz-window --window "$W" --wait reveal <"$D/commit" | bz-delta make | bz-push >"$D/receipt.part"
  finish "$D/receipt" "${PIPESTATUS[@]}" || exit
fi
