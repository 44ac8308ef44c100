#!/usr/bin/env bash
# One window of a validator: validator.sh W. A stage whose receipt is there is not run again.
set -u
. "$(dirname "$0")/stage.sh"
W=${1:-}
enter "$W"

# The state that the window trains from: as another published it, or, when it is our turn, our own.
stage base "bz-window --window $W --wait start | bz-pull --state --publish | bz-state apply"
case $? in
  0) ;;
  1) stage base "bz-window --window $W | bz-pull --newest | bz-state carry | bz-push" || exit ;;
  *) exit ;;
esac

# Commitments, until the window ends.
stage commits "bz-window --window $W --wait commit | bz-pull --commits" || exit

# Deltas, at the deadline; every byte checked.
stage pulled "bz-window --window $W --wait deadline < $Q/commits | bz-pull --deltas | bz-delta check" || exit

# Train again on the pages of some, and compare.
stage scores "bz-pages --role audit < $Q/pulled | ${BZ_TRAIN:-bz-train} | bz-score" || exit

# The next state: follow who published before us, or make, sign and publish it.
stage state "bz-window --window $((W + 1)) --wait start | bz-pull --state --publish | bz-state apply"
case $? in
  0) ;;
  1) stage state "bz-score accept < $Q/scores | bz-state apply | bz-push" || exit ;;
  *) exit ;;
esac

stage weights "bz-score fold --window $W $(printf %q "$BZ_HOME")/windows | bz-setweights" || exit

# Mirror the states of others that were followed: what they published stays when they go. Not worth a window's end: the loop says how
# long both may take.
mirrored=$((SECONDS + ${BZ_SPARE_S:-60}))
for followed in base state; do
  left=$((mirrored - SECONDS))
  stage $followed-mirror "bz-push --mirror --within $((left > 0 ? left : 1)) < $Q/$followed" || :
done
