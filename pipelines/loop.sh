#!/usr/bin/env bash
# Window after window: loop.sh miner|validator [LAST]. One loop a node. TERM and INT end it with all that it runs, and its status
# is 143 or 130; a kill loses at most the running stage. What it ends with by itself: 0 after window LAST; 75 another loop runs
# here; 78 a setting, or three windows in a row without a place, or two epochs of windows without a permit or weights; 2 and
# others, what a stage ended with.
set -u
. "$(dirname "$0")/settings.sh"
. "$here/journal.sh"
role=${1:-}
last=${2:-}
case $role in
  miner | cheat) receipts='commit receipt' ;;
  validator) receipts='base commits pulled scores state weights' ;;
  *) die 2 "'$role' is neither miner nor validator" 'loop.sh miner|validator [LAST]' ;;
esac
first=${receipts%% *} done=${receipts##* }
hparams=${BZ_HPARAMS:-$BZ_HOME/hparams.json}
[ -f "$hparams" ] || die 78 "there is no $hparams" "copy the run's hparams.json there; BZ_HOME or BZ_HPARAMS says where"
mkdir -p "$BZ_HOME" && [ -w "$BZ_HOME" ] || die 78 "$BZ_HOME cannot be written" 'BZ_HOME is the folder of this node'
exec 9>"$BZ_HOME/lock"
# One that was just killed may still be ending; its stages never hold this lock.
flock -w 15 9 || die 75 "another loop runs in $BZ_HOME" 'one loop a node: stop that one, or name another BZ_HOME'
start=$(jq .start_window "$hparams") && blocks=$(jq .clock.blocks "$hparams") || exit 78

exec 3>&2
exec 2> >(exec 9>&-; journal)
journal=$!
say() { echo "$*" >&2; }

# Whatever may take long runs in a session of its own, in the background: so that a signal is heard at once, and finds all of it,
# in whatever process group. No terminal is there: a password comes from BZ_PASSWORD_FILE.
child='' follower=''
run() { # run COMMAND...: its status
  local status
  child=forked
  setsid "$@" 3>&- 9>&- &
  child=$!
  wait "$child"
  status=$?
  child=
  return $status
}

session() { # session LEADER: the processes of its session that still run
  local file text
  for file in /proc/[0-9]*/stat; do
    { read -r text <"$file"; } 2>/dev/null || continue
    # pid (command) state parent group session …, and a command may hold spaces and parentheses.
    local pid=${text%% *}
    # shellcheck disable=SC2086
    set -- "$1" ${text##*) }
    if [ "${5:-}" = "$1" ] && [ "$2" != Z ]; then echo "$pid"; fi
  done
}

end() { # end STATUS: nothing that was started here outlives the loop
  local leader left tries
  trap '' TERM INT HUP
  [ "$child" != forked ] || child=$!
  for leader in $child $follower; do
    for ((tries = 0; ; tries++)); do
      left=$(session "$leader")
      [ -n "$left" ] || break
      # Five seconds are for what cancels a job elsewhere (slurm/shards.sh).
      # shellcheck disable=SC2086
      case $tries in 0) kill $left ;; 50) kill -9 $left ;; 100) break ;; esac 2>/dev/null
      sleep 0.1
    done
  done
  exec 2>&3
  wait "$journal"
  exit "$1"
}
trap 'end 143' TERM
trap 'end 130' INT
trap 'end 129' HUP

# A loop that is killed takes its follower along.
setpriv=$(command -v setpriv) && setpriv="$setpriv --pdeathsig TERM"
follow() {
  $setpriv setsid "$here/follow.sh" 3>&- 9>&- &
  follower=$!
}
# followed: a follower that is gone is started again, unless it ended with what trying again does not change.
followed() {
  local status
  [ -n "$follower" ] && ! kill -0 "$follower" 2>/dev/null || return 0
  wait "$follower"
  status=$?
  follower=
  case $status in 2 | 78) return 0 ;; esac
  say "the follower of the chain is gone, with status $status: it is started again"
  follow
}
[ "${BZ_FOLLOW:-yes}" = no ] || follow

# look: the window of this moment and its last block; how long a block takes; what the subnet gives this node, and what stands
# before that. Where the chain does not say, all stays as it was.
current='' block='' block_ms=0 first_block='' first_ms='' earns='' standing=''
look() {
  local status now_ms seen
  run bz-window >"$BZ_HOME/now"
  status=$?
  [ $status -eq 0 ] || return $status
  now_ms=$((${EPOCHREALTIME/[.,]/} / 1000))
  seen=$(jq -rs --arg role "$role" '
    (map(select(.type == "window")) | last) as $window | (map(select(.type == "peer" and .self)) | first) as $own
    | ($own | if $role == "validator" then {dividends} else {incentive} end | to_entries[0]) as $pay
    | [$window.window, $window.block, "\($pay.key) \($pay.value // 0 | . * 1000 | round / 1000)",
       if $own == null then "the wallet has no place in the subnet (bz-chain register)"
       elif $role == "validator" and ($own.permit | not) then "no validator permit (bz-chain doctor)"
       else "" end] | @tsv' "$BZ_HOME/now") && [[ $seen =~ ^[0-9]+$'\t'[0-9]+$'\t' ]] || return 75
  IFS=$'\t' read -r current block earns standing <<<"$seen"
  # Over ten blocks at least: two looks on either side of a block, or finality that catches up, say nothing. From a look that is
  # a window old at most, in blocks, so that what went wrong once does not stay.
  if [ -n "$first_block" ]; then
    [ $((block - first_block)) -lt 10 ] || block_ms=$(((now_ms - first_ms) / (block - first_block)))
    [ $((block - first_block)) -ge 10 ] && [ $((block - first_block)) -ge "$blocks" ] || return 0
  fi
  first_block=$block first_ms=$now_ms
}

folder() { echo "$BZ_HOME/windows/$1"; }
begun() { [ -s "$(folder "$1")/$first" ] && [ ! -s "$(folder "$1")/$done" ]; }
kept() { # kept W: how many of its receipts are there
  local name count=0
  for name in $receipts; do [ ! -s "$(folder "$1")/$name" ] || count=$((count + 1)); done
  echo $count
}
in_time() { # in_time W: what a miner reveals of it would still count
  local deadline
  deadline=$(jq -rs 'map(select(.type == "window")) | last.deadline_block' "$(folder "$1")/commit") || return 1
  [ -z "$block" ] || [ "$block" -le "$deadline" ]
}

# choose: which window now, W, by what is there, so that a kill changes nothing. `over` is the last that this loop is done with.
over=''
choose() {
  local now=${current:-$start}
  [ "$now" -gt "$start" ] || now=$start
  W=$now
  if [ "$role" = validator ]; then
    # It judges every window in its order, as long as the window after it is not over.
    if [ -n "$over" ]; then
      W=$((over + 1 > now - 1 ? over + 1 : now - 1))
    elif begun $((now - 1)); then
      W=$((now - 1))
    fi
  elif [ $((now - 1)) -gt "${over:--1}" ] && begun $((now - 1)) && in_time $((now - 1)); then
    # What was committed to is revealed first: training waits for that, and not for the window's own end.
    W=$((now - 1))
  fi
  [ -z "$over" ] || [ "$W" -gt "$over" ] || W=$((over + 1))
  if [ -n "$over" ] && [ "$W" -gt $((over + 1)) ]; then
    say "window $((over + 1))$([ "$W" -eq $((over + 2)) ] || echo " to $((W - 1))") was passed over: it is window $now now"
  fi
  # A window that is tried again is the same one, unless it can no longer be won.
  over=$((W - 1))
}

# afresh W: what a stage that found bad data had made is removed, so that the stage makes it again. Receipts stay, what they
# name stays, and so does what was seen of others and cannot be seen again (fetched/, accepted/, refused-*).
afresh() {
  local file named
  named=$(cd "$(folder "$1")" && cat $receipts 2>/dev/null | jq -r '.path // empty')
  for file in "$(folder "$1")"/{*.part,pages-*,update-*,commit.json,delta.safetensors}; do
    [ ! -f "$file" ] || grep -qxF -- "$file" <<<"$named" || rm -f "$file"
  done
}

# happened W: what a window's line says.
happened() {
  if [ "$role" = validator ]; then
    cat "$(folder "$1")"/{pulled,scores,state,weights} | jq -rs '
      def last_of(kind): map(select(.type == kind)) | last;
      def by_uid(kind): map(select(.type == kind)) | INDEX(.uid) | [.[]];
      (by_uid("delta") | map(select(.status != "missing"))) as $deltas | (by_uid("score") | map(select(.score != null))) as $scores
      | "\($deltas | map(select(.status == "ok")) | length)/\($deltas | length) deltas, "
        + "\($scores | map(select(.score > 0)) | length)/\($scores | length) audits, "
        + "state \(if last_of("accept") then "ours" else "followed" end), \(last_of("state").accepted | length) in it, "
        + "weights \(if last_of("weights").submitted then "set" else "not set" end)"'
  else
    cat "$(folder "$1")"/{commit,receipt} | jq -rs '
      def round3: . // 0 | . * 1000 | round / 1000;
      (map(select(.type == "train")) | last) as $train | (map(select(.type == "push")) | INDEX(.url) | [.[].bytes] | add) as $sent
      | (if $train then "\($train.tokens) tokens, loss \($train.loss_before | round3) to \($train.loss_after | round3), " else "" end)
        + "\($sent // 0 | . / 1000 | ceil) kB sent"'
  fi 2>/dev/null
}

# epochs: two of them, in windows, three at least. A permit is given, and weights count, at an epoch's end.
tempo='' epochs_windows=3
epochs() {
  # Asked until it is had; meanwhile it is the main net's.
  if [ -z "$tempo" ]; then
    run bz-chain hyperparameters >"$BZ_HOME/hyperparameters"
    tempo=$(jq -rs 'map(select(.type == "hyperparameters")) | last.tempo' "$BZ_HOME/hyperparameters" 2>/dev/null)
    [[ $tempo =~ ^[1-9][0-9]{0,6}$ ]] || tempo=
  fi
  epochs_windows=$(((2 * ${tempo:-360} + blocks - 1) / blocks))
  [ $epochs_windows -ge 3 ] || epochs_windows=3
}

# counted W STATUS: windows in a row in which nothing can be earned. What they lack is said in each. Without a place the loop
# ends after three; without a permit or weights, once two epochs have not changed that.
idle=0 last_idle='' idle_for=''
counted() {
  local why=$standing lacks idle_windows=3
  if [ -z "$why" ] && [ "$role" = validator ] && [ -s "$(folder "$1")/state" ] && [ ! -s "$(folder "$1")/weights" ]; then
    case $2 in 1 | 78) why='no weights were set (bz-chain doctor)' ;; esac
  fi
  if [ -z "$why" ]; then
    idle=0
    return 1
  fi
  case $why in *'no place'*) lacks=place ;; *) lacks=epoch; epochs; idle_windows=$epochs_windows ;; esac
  [ "$idle_for" = $lacks ] || idle=0 last_idle=''
  idle_for=$lacks
  [ "$last_idle" = "$1" ] || idle=$((idle + 1))
  last_idle=$1
  say "window $1 earns nothing: $why; $idle of $idle_windows windows in a row"
  [ $idle -lt $idle_windows ] || end 78
}

# pause: before the same again: 2 s, 4 s, up to a minute, but no more than an eighth of a window, where that is more than 2 s.
failures=0
pause() {
  local seconds=$((failures < 5 ? 2 << failures : 60)) eighth=$((block_ms * blocks / 8000))
  [ $block_ms -eq 0 ] || [ $seconds -le $eighth ] || seconds=$((eighth > 2 ? eighth : 2))
  failures=$((failures + 1))
  run sleep $seconds
}

fresh='' told='' watched=''
while :; do
  look
  status=$?
  if [ -z "$current" ]; then
    case $status in
      1) current=$start ;; # the run has not begun: its first window waits for that
      75 | 12[89] | 1[3-9][0-9] | 2[0-9][0-9]) pause; continue ;;
      *) end $status ;;
    esac
  fi
  choose
  if [ -n "$last" ] && [ "$W" -gt "$last" ]; then end 0; fi
  [ "$watched" = "$W" ] || followed
  watched=$W
  # What is not worth a window's end has a quarter of a window, and a minute at most.
  quarter=$((block_ms * blocks / 4000 + 1))
  finished=$([ ! -s "$(folder "$W")/$done" ] || echo yes)
  before=$(kept "$W")
  BZ_SPARE_S=$((block_ms == 0 || quarter > 60 ? 60 : quarter)) run "$here/$role.sh" "$W"
  status=$?
  [ "$(kept "$W")" -eq "$before" ] || failures=0
  case $status in
    0 | 1)
      over=$W failures=0
      counted "$W" $status
      if [ $status -eq 1 ]; then
        say "window $W: the answer was no (see above); on to the next"
      elif [ -z "$finished" ]; then
        say "window $W: $(happened "$W")${earns:+; $earns}"
      fi
      ;;
    75 | 12[89] | 1[3-9][0-9] | 2[0-9][0-9]) # Something outside was away, or a stage was killed.
      [ "$told" = "$W $status" ] || say "window $W: status $status; the same again, until it goes or the window is over"
      told="$W $status"
      pause
      ;;
    65 | 101)
      if [ "$fresh" != "$W" ]; then
        fresh=$W
        say "window $W: a stage ended with status $status; once more, afresh"
        afresh "$W"
      else
        over=$W failures=0
        say "window $W: status $status once more: it is given up; on to the next"
      fi
      ;;
    78)
      counted "$W" 78 || { say "window $W: status 78, which trying again does not change"; end 78; }
      over=$W failures=0
      ;;
    *)
      say "window $W ended with status $status"
      end $status
      ;;
  esac
done
