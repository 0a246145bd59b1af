#!/usr/bin/env bash
# RFMFlow with the bounded estimator against the paper's, everything else equal but the tanh latent that the paper's needs.
# Finished runs are skipped and stopped ones resumed.
#   benchmarks/learning/estimator_comparison.sh TASK STEPS [SEEDS] [VARIANTS] [FOLDER] [SHARED]
# The updates are full: a time of each state, 4 solver steps, 4 candidates (RFMFlow's defaults are lighter; a comparison of n_times
# would be another). SHARED are hyperparameters that all variants have; `make test` sets up the environment. For instance
#   benchmarks/learning/estimator_comparison.sh cartpole-swingup 100000 "0 1" "paper16 paper100 bounded16"
#   benchmarks/learning/estimator_comparison.sh cheetah-run 100000 "0 1" "bounded16 paper16 paper100" runs/estimators \
#       "policy_kwargs:{'net_arch':[128,128]} n_steps:3 train_freq:2"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
task=$1
steps=$2
seeds=${3:-0 1}
variants=${4:-bounded16 paper16 paper100}
folder=${5:-runs/estimators}
shared=${6:-}
run=${SB3_RFM:-.venv/bin/sb3-rfm}
export OMP_NUM_THREADS=1 MUJOCO_GL=disable

arguments() { # VARIANT
    case $1 in
        bounded16) echo "estimator.name:'bounded' estimator.n_particles:16" ;;
        paper16) echo "estimator.name:'diagonal_centred' estimator.n_particles:16 flow.support:'tanh'" ;;
        paper100) echo "estimator.name:'diagonal_centred' estimator.n_particles:100 flow.support:'tanh'" ;;
        *) echo "unknown variant $1: bounded16, paper16 or paper100" >&2 && exit 2 ;;
    esac
}

for variant in $variants; do
    for seed in $seeds; do
        runs="$folder/$variant"
        made="$runs/rfm_flow__dm_control-$task-v0__seed$seed"
        if [[ -e "$made/config.yml" ]]; then
            "$run" run --resume "$made" --steps "$steps" --no-progress
        else
            read -ra hyperparams <<<"$(arguments "$variant") estimator.n_times:1 flow.steps:4 candidates.n:4 $shared"
            "$run" run --algo rfm_flow --env "dm_control/$task-v0" --steps "$steps" --seed "$seed" --folder "$runs" \
                --eval-freq "$((steps / 10))" --eval-episodes 5 --no-progress --hyperparams "${hyperparams[@]}"
        fi
    done
done
