#!/usr/bin/env bash
# Split a stream by record over several processes: a filter in place of bz-train or bz-eval.
#
#   bz-pages --role audit < pulled | pipelines/slurm/shards.sh parallel 4 bz-train | bz-score     GNU parallel, on this machine
#   bz-pages --role audit < pulled | pipelines/slurm/shards.sh slurm 8 bz-train | bz-score        a Slurm array of 8 tasks
#   BZ_TRAIN='pipelines/slurm/shards.sh slurm 8 bz-train' make validator                          the audits of every window
#
# Each process takes every Nth record (--shard). With GPUs, GNU parallel gives each its own; what Slurm gives a task is BZ_SBATCH's
# (such as BZ_SBATCH='--gpus-per-task=1 --cpus-per-task=8 --time=10'). $BZ_HOME, the text and the tools lie where all nodes see them.
# The first shard that fails is named, with what it said, and its status returned: nothing is passed on.
set -u
die() { # die STATUS ERROR HINT
  printf 'shards.sh: %s\nhint: %s\n' "$2" "$3" >&2
  exit "$1"
}
[ $# -ge 3 ] || die 2 'three arguments and more: parallel or slurm, how many, and a tool' 'shards.sh parallel 4 bz-train --device cuda'
how=$1 count=$2
shift 2
case $how in parallel) need=parallel ;; slurm) need=sbatch ;; *) die 2 "'$how' is neither parallel nor slurm" 'shards.sh parallel 4 bz-train' ;; esac
case $count in [1-9] | [1-9][0-9] | [1-9][0-9][0-9]) ;; *) die 2 "'$count' is no number of processes" 'shards.sh parallel 4 bz-train' ;; esac
for tool in $need "$1"; do
  command -v "$tool" >/dev/null || die 78 "$tool is not on the PATH" 'apt-get install parallel, or slurm-client; make install'
done

# A folder that the nodes share.
folder=${BZ_HOME:-$HOME/.boltzmann}/shards
mkdir -p "$folder" || exit 78
work=$(mktemp -d "$folder/XXXXXX") || exit 78
job= child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; [ -z "$job" ] || scancel "$job" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
cat >"$work/in" || exit
printf -v command '%q ' "$@"
quoted=$(printf %q "$work")
# A shard's output is there when it has ended well; its status is there in any case.
cat >"$work/shard" <<SHARD
cd $(printf %q "$PWD") || exit
work=$quoted
$command --shard \$1/$count <"\$work/in" >"\$work/out.\$1" 2>"\$work/said.\$1"
echo \$? >"\$work/part.\$1" && mv "\$work/part.\$1" "\$work/status.\$1"
SHARD
if [ "$how" = parallel ]; then
  # On this machine the processes share its cores and its GPUs.
  export BZ_THREADS=${BZ_THREADS:-$((($(nproc) + count - 1) / count))}
  gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd,)}
  IFS=, read -ra gpus <<<"$gpus"
  for shard in $(seq 0 $((count - 1))); do
    printf '%s\n' "${gpus[*]:+CUDA_VISIBLE_DEVICES=${gpus[shard % ${#gpus[@]}]} }bash $quoted/shard $shard"
  done | parallel -j "$count" &
  child=$!
  wait "$child"
  child=
else
  # shellcheck disable=SC2086
  job=$(sbatch --parsable --array=0-$((count - 1)) --job-name="${1##*/}" --output=/dev/null ${BZ_SBATCH:-} \
    --wrap "bash $quoted/shard \$SLURM_ARRAY_TASK_ID") || die 75 'Slurm took no job' "sinfo shows its nodes, BZ_SBATCH='${BZ_SBATCH:-}' is what was asked for"
  job=${job%%;*}
  # Until every task has said how it ended, or Slurm has known of none for some looks: what was cancelled, or its node lost, says nothing, and a
  # shared folder may show a file late. A controller that does not answer is waited for.
  gone=0
  until [ "$(find "$work" -name 'status.*' | wc -l)" -eq "$count" ] || [ $gone -ge 10 ]; do
    sleep 0.5
    if left=$(squeue --noheader --jobs "$job" 2>&1); then
      if [ -n "$left" ]; then gone=0; else gone=$((gone + 1)); fi
    else
      case $left in *'Invalid job id'*) gone=$((gone + 1)) ;; esac
    fi
  done
  job=
fi
for shard in $(seq 0 $((count - 1))); do
  status=$(cat "$work/status.$shard" 2>/dev/null)
  if [ "$status" != 0 ]; then
    echo "shards.sh: shard $shard of $count: $* ended with status ${status:-none: it was cancelled, or its node went away}" >&2
    cat "$work/said.$shard" >&2 2>/dev/null
    exit "${status:-75}"
  fi
done
cat "$work"/said.* >&2
# One stream: what the first echoes and appends, what the others append, and one end.
grep -v '^{"type":"end"' "$work/out.0"
for shard in $(seq 1 $((count - 1))); do
  grep -E '^\{"type":"(train|eval)"' "$work/out.$shard"
done
grep '^{"type":"end"' "$work/out.0"
