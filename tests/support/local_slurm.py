"""Stand-ins for SLURM's commands that run an array job on this machine, for tests of its launcher.

`sbatch` starts every task of the array in the background, `srun` runs its command, `sacct` tells
which tasks have ended.
"""

import os
from pathlib import Path

SBATCH = """#!/bin/bash
file="${@: -1}"
range=$(sed -n 's/^#SBATCH --array=\\([0-9]*\\)-\\([0-9]*\\).*/\\1 \\2/p' "$file")
echo "$file" >> "$LOCAL_SLURM/submitted"
for task in $(seq $range); do
    (
        export SLURM_ARRAY_JOB_ID=100 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((101 + task))
        export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
        export SLURM_JOB_NODELIST=localhost
        bash "$file"
        touch "$LOCAL_SLURM/ended.$task"
    ) > "$LOCAL_SLURM/log.$task" 2>&1 &
done
echo "Submitted batch job 100"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
    case $1 in
        --output | --error) shift 2 ;;
        *) shift ;;
    esac
done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for log in "$LOCAL_SLURM"/log.*; do
    task=${log##*.}
    state=RUNNING
    [[ -e $LOCAL_SLURM/ended.$task ]] && state=COMPLETED
    echo "100_$task|$state|localhost"
done
"""


def install(folder: Path) -> dict[str, str]:
    """Write the commands to a folder; returns the environment that finds them."""
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "LOCAL_SLURM": str(folder)}
