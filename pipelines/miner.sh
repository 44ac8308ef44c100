#!/usr/bin/env bash
# One window of a miner: miner.sh W. A stage whose receipt is there is not run again.
set -u
. "$(dirname "$0")/stage.sh"
W=${1:-}
enter "$W"

# Catch up with the state, train on the own pages, bind the update.
stage commit "bz-window --window $W --wait start | bz-pull --state | bz-state apply | bz-pages | bz-train | bz-delta commit | bz-push" || exit

# The window is over: reveal the tiles that its last block drew.
stage receipt "bz-window --window $W --wait reveal < $Q/commit | bz-delta make | bz-push"
