#!/usr/bin/env bash
# SLURM array: job n runs line n of a file of commands, and is saved and requeued when out of time.
#
#   scripts/table4.sh --dry-run > commands
#   sbatch --array="1-$(wc -l < commands)" --gpus=1 scripts/slurm.sh commands
#
# Training commands need run_dir=… and resume=auto. hydra/launcher=slurm does the same by submitit.
#SBATCH --job-name=mtrl-fairgrad
#SBATCH --output=slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# USR1 arrives five minutes before the end, at this script only (B:), which forwards it to the
# training, and a checkpoint takes less time than that.
set -uo pipefail

task=${SLURM_ARRAY_TASK_ID:?give sbatch --array=1-N}
command=$(sed -n "${task}p" "${1:?give the file of commands}")
if [[ -z $command ]]; then
    echo "error: $1 has no line $task: give sbatch --array=1-$(wc -l < "$1")." >&2
    exit 2
fi

child=
requeue=
forward() {
    [[ $1 == USR1 ]] && requeue=yes
    [[ $child ]] && kill -s "$1" "$child" 2> /dev/null
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM # scancel, or a preemption, after which SLURM requeues the job itself

eval "exec $command" &
child=$!
# A signal ends `wait` early, while the training still writes its checkpoint.
while wait "$child"; code=$?; kill -0 "$child" 2> /dev/null; do :; done

if [[ $requeue ]] && ((code > 128)); then
    echo "out of time, requeued"
    exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
fi
exit "$code"
