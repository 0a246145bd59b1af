#!/usr/bin/env bash
# The learning results of docs/results.md: trains what has no result yet, gathers CSV files and draws the picture.
# A run whose CSV is in benchmarks/results is skipped, a stopped one resumed: it can be stopped and started at will.
#   benchmarks/learning/learning_curves.sh [FOLDER]        about five hours on one core; `make test` sets up the environment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
runs=${1:-runs/results}
run=.venv/bin/sb3-rfm
export OMP_NUM_THREADS=1 MUJOCO_GL=disable

train() { # ALGO TASK STEPS SEED EVAL_FREQ
    local name="$1__dm_control-$2-v0__seed$4"
    local folder="$runs/$name" result="benchmarks/results/$name"
    if [[ -e "$result.csv" ]]; then
        return
    elif [[ -e "$folder/config.yml" ]]; then
        "$run" run --resume "$folder" --no-progress
    else
        "$run" run --algo "$1" --env "dm_control/$2-v0" --steps "$3" --seed "$4" --folder "$runs" \
            --eval-freq "$5" --eval-episodes 5 --no-progress
    fi
    cp "$folder/evaluations.csv" "$result.csv"
    cp "$folder/config.yml" "$result.yml"
}

for seed in 0 1 2; do
    train rfm_flow cartpole-swingup 40000 "$seed" 5000
    train rfm_diffusion cartpole-swingup 40000 "$seed" 5000
done
train rfm_flow cheetah-run 100000 0 10000
train sac cheetah-run 100000 0 10000

"$run" plot benchmarks/results/*__seed*.csv -o "$runs/learning_curves.png"
