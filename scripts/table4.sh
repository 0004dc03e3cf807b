#!/usr/bin/env bash
# Train all rows of the paper's Table 4, one after another, then report on them:
#
#   scripts/table4.sh [--dry-run] [ROOT=runs/table4] [options of every row, such as device=cuda]
#
# Each row trains ten seeds for 2 million vector steps in ROOT/<row>. Running the command again skips
# finished rows and resumes the others. --dry-run prints one command a row, for scripts/slurm.sh.
# A trial of some minutes: scripts/table4.sh /tmp/table4 preset=quick steps=400 seeds=[0]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=
if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
if [[ ${1:-} == -* ]]; then
    echo "error: $1 is unknown; usage: scripts/table4.sh [--dry-run] [ROOT] [key=value ...]." >&2
    exit 2
fi
root=runs/table4
if [[ -n ${1:-} && $1 != *=* ]]; then
    root=$1
    shift
fi
python=${PYTHON:-.venv/bin/python}

# Name of the row in mtrl_fairgrad/analysis/paper/table4.csv, then its options. The row
# nash_mtl_original is nash_mtl as reported by its authors.
rows=(
    "stl         agent=stl agent.temperature=per_task"
    "mtl_sac     agent=mtsac method=ls agent.temperature=per_task"
    "mtl_sac_te  agent=mtsac_te method=ls agent.temperature=per_task"
    "mh_sac      agent=mhsac method=ls agent.temperature=per_task"
    "pcgrad      agent=mtsac method=pcgrad agent.temperature=shared"
    "cagrad      agent=mtsac method=cagrad method.c=0.9 agent.temperature=shared"
    "moco        agent=mtsac method=moco agent.temperature=shared"
    "nash_mtl    agent=mtsac method=nash_mtl method.update_weights_every=1 agent.temperature=shared"
    "famo        agent=mtsac method=famo method.gamma=0.01 method.learning_rate=0.025 agent.temperature=shared"
    "fairgrad    agent=mtsac method=fairgrad method.solver=sgd alpha=2 agent.temperature=shared"
)

folders=()
failed=()
for row in "${rows[@]}"; do
    read -r name options <<< "$row"
    # shellcheck disable=SC2086  # several options
    command=("$python" -m mtrl_fairgrad.train preset=table4 env=mt10_paper $options "$@" "run_dir=$root/$name" resume=auto)
    if [[ $dry ]]; then
        printf '%q ' "${command[@]}"
        echo
    else
        echo "== $name"
        "${command[@]}" && code=0 || code=$?
        if ((code > 128)); then
            echo "error: stopped in $name; run the command again to continue." >&2
            exit "$code"
        fi
        if ((code)); then failed+=("$name"); else folders+=("$root/$name"); fi
    fi
done
if [[ $dry ]]; then exit; fi
if ((${#folders[@]})); then "$python" -m mtrl_fairgrad.report "${folders[@]}" --out "$root/report"; fi
if ((${#failed[@]})); then
    echo "error: not finished: ${failed[*]}; run the command again to continue them." >&2
    exit 1
fi
