#!/bin/sh
# The tests and the benchmark of a GPU, each with a time limit, in 7 minutes at most:
#
#     scripts/gpu_session.sh [FOLDER]
#
# FOLDER (default $OUT, or else results/performance) receives the benchmark's files and a log of each
# part. GPU_RUN is the Python (default python3).
cd "$(dirname "$0")/.." || exit
python=${GPU_RUN:-python3}
folder=${1:-${OUT:-results/performance}}
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$folder" || exit
failed=""

part() { # name, seconds, command: SIGINT lets it report what it has
    name=$1 seconds=$2
    shift 2
    echo "== $name"
    timeout -s INT -k 15 "$seconds" "$@" >"$folder/$name.log" 2>&1
    code=$?
    tail -n 70 "$folder/$name.log"
    [ $code = 0 ] || failed="$failed, $name (exit code $code)"
}

begun=$(date +%s)
part tests 165 $python -m pytest -n 4 --durations 10 tests/gpu
left=$((405 - $(date +%s) + begun)) # the benchmark has all the time that is left, at least 4 minutes
minutes=$($python -c "print(($left - 30) / 60)")
part benchmark $left $python scripts/benchmark.py --device cuda --minutes "$minutes" --keep "$folder"
echo "== ${failed:+failed: ${failed#, }; }results in $folder"
[ -z "$failed" ]
