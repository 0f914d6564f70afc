#!/usr/bin/env bash
# A real Monty that needs no data, GPU or login: it looks at simple solids in MuJoCo.
#
#   start.sh PYTHON RESULTS quick|full|pretrain|parallel [overrides]
#
#   quick      6 episodes of training, 3 of evaluation, in some 20 s
#   full       pretraining, 12 episodes with 4 objects, then 12 episodes of evaluation
#   pretrain   the first half of full
#   parallel   4 episodes of evaluation, 2 processes at a time, of what was pretrained
#              into RESULTS; where nothing was, that is done first
#
# PYTHON is one of an environment with Monty (tools/monty.sh). All that Monty writes goes
# to RESULTS, what it writes of a run to the folder that is called like it. The overrides
# are for Monty, and come last: full has them in both of its runs, and where parallel
# pretrains first it does so with those of Episight alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$1 results=$2 mode=$3
shift 3
mkdir -p "$results"
cd "$results"
results=$PWD

export MONTY_LOGS=$results MONTY_MODELS=$results MONTY_DATA=$results WANDB_DIR=$results
export MUJOCO_GL=egl PYOPENGL_PLATFORM=egl # draws without a screen
export WANDB_MODE=${WANDB_MODE:-disabled}

run=("$python" "$here/run.py" "hydra.run.dir=$results/hydra"
    "experiment.config.logging.output_dir=$results")
run_parallel=("$python" "$here/run_parallel.py" "${run[@]:2}")
model=$results/pretrain/pretrained
evaluation=(experiment=base_config_10distinctobj_dist_agent_mujoco
    environment=mujoco_dist_agent logging=basic_info_monty_runs
    experiment.config.recognition_policy.max_eval_steps=50
    "experiment.config.model_name_or_path=$model")
objects="[cubeSolid,capsule3DSolid,cylinderSolid,coneSolid]"

pretrain() { # OVERRIDES...
    "${run[@]}" experiment=supervised_pre_training_base environment=mujoco_dist_agent \
        monty/motor_system_config=naive_scan_10 \
        experiment.config.logging.run_name=pretrain \
        experiment.config.train_env_interface_args.object_names="$objects" \
        experiment.config.n_train_epochs=3 \
        experiment.config.recognition_policy.policies.1.fixed_amount=10 "$@"
}

case "$mode" in
quick)
    exec "${run[@]}" experiment=test/evidence_lm/evidence_mujoco \
        logging=basic_info_monty_runs experiment.config.logging.run_name=quick "$@"
    ;;
pretrain) pretrain "$@" ;;
full)
    pretrain "$@"
    exec "${run[@]}" "${evaluation[@]}" experiment.config.logging.run_name=evaluate \
        experiment.config.eval_env_interface_args.object_names="$objects" \
        experiment.config.n_eval_epochs=3 "$@"
    ;;
parallel)
    if [ ! -e "$model/model.pt" ]; then
        of_episight=()
        for override in "$@"; do
            case "$override" in *episight*) of_episight+=("$override") ;; esac
        done
        pretrain ${of_episight[@]+"${of_episight[@]}"} # bash 3.2: may be empty
    fi
    rm -rf parallel # what is left of an earlier run would be merged with this one
    exec "${run_parallel[@]}" "${evaluation[@]}" num_parallel=2 \
        experiment.config.logging.run_name=parallel \
        experiment.config.eval_env_interface_args.object_names="[cubeSolid,coneSolid]" \
        experiment.config.n_eval_epochs=2 "$@"
    ;;
*)
    printf 'there is no "%s": quick, full, pretrain or parallel\n' "$mode" >&2
    exit 2
    ;;
esac
