#!/usr/bin/env bash
# The learning results of docs/results.md: trains what is not trained yet, then gathers CSV files and draws the picture.
# Finished runs are skipped and stopped ones resumed, so it can be stopped and started at will.
#   benchmarks/learning_curves.sh [FOLDER]        about five hours on one core; `make test` sets up the environment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-runs/results}
run=.venv/bin/sb3-rfm
export OMP_NUM_THREADS=1 MUJOCO_GL=disable

train() { # ALGO TASK STEPS SEED EVAL_FREQ
    local folder="$runs/$1__dm_control-$2-v0__seed$4"
    if [[ -e "$folder/config.yml" ]]; then
        "$run" run --resume "$folder" --no-progress
    else
        "$run" run --algo "$1" --env "dm_control/$2-v0" --steps "$3" --seed "$4" --folder "$runs" \
            --eval-freq "$5" --eval-episodes 5 --no-progress
    fi
}

for seed in 0 1 2; do
    train rfm_flow cartpole-swingup 60000 "$seed" 5000
    train rfm_diffusion cartpole-swingup 40000 "$seed" 5000
done
train rfm_flow cheetah-run 100000 0 10000
train sac cheetah-run 100000 0 10000

mkdir -p benchmarks/results
for folder in "$runs"/*__seed*; do
    cp "$folder/evaluations.csv" "benchmarks/results/$(basename "$folder").csv"
    cp "$folder/config.yml" "benchmarks/results/$(basename "$folder").yml"
done
"$run" plot "$runs" -o docs/images/learning_curves.png
