#!/usr/bin/env bash
# One window of a validator: validator.sh W. A stage whose receipt is there is not run again.
set -u
. "$(dirname "$0")/stage.sh"
W=$1
enter "$W"

# The state that the window trains from: as another published it, or, when it is our turn, our own.
if [ ! -s "$D/base" ]; then
  bz-window --window "$W" --wait start | bz-pull --state | bz-state apply >"$D/base.part"
  finish "$D/base" "${PIPESTATUS[@]}"
  status=$?
  if [ $status -eq 1 ]; then
    bz-window --window "$W" | bz-pull --newest | bz-state carry | bz-push >"$D/base.part"
    finish "$D/base" "${PIPESTATUS[@]}"
    status=$?
  fi
  [ $status -eq 0 ] || exit $status
fi

# Commitments, until the window ends.
if [ ! -s "$D/commits" ]; then
  bz-window --window "$W" --wait commit | bz-pull --commits >"$D/commits.part"
  finish "$D/commits" "${PIPESTATUS[@]}" || exit
fi

# Deltas, at the deadline; every byte checked.
if [ ! -s "$D/pulled" ]; then
  bz-window --window "$W" --wait deadline <"$D/commits" | bz-pull --deltas | bz-delta check >"$D/pulled.part"
  finish "$D/pulled" "${PIPESTATUS[@]}" || exit
fi

# Train again on the pages of some, and compare.
if [ ! -s "$D/scores" ]; then
  bz-pages --role audit <"$D/pulled" | bz-train | bz-score >"$D/scores.part"
  finish "$D/scores" "${PIPESTATUS[@]}" || exit
fi

# The next state: follow who published before us, or make, sign and publish it.
if [ ! -s "$D/state" ]; then
  bz-window --window "$((W + 1))" --wait start | bz-pull --state | bz-state apply >"$D/state.part"
  finish "$D/state" "${PIPESTATUS[@]}"
  status=$?
  if [ $status -eq 1 ]; then
    bz-score accept <"$D/scores" | bz-state apply | bz-push >"$D/state.part"
    finish "$D/state" "${PIPESTATUS[@]}"
    status=$?
  fi
  [ $status -eq 0 ] || exit $status
fi

if [ ! -s "$D/weights" ]; then
  bz-score fold --window "$W" "$BZ_HOME/windows" </dev/null | bz-setweights >"$D/weights.part"
  finish "$D/weights" "${PIPESTATUS[@]}" || exit
fi
