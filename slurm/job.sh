# Functions of the job scripts, which source this file: load the site's settings, start the tasks, requeue the job.
# shellcheck shell=bash
set -uo pipefail
cd "$SLURM_SUBMIT_DIR" || exit 2
source "${MIMDIT_SITE:-slurm/site.env}"

# The name of this job for scontrol. SLURM_JOB_ID would not do: for the last task of an array it is the number of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
restarts=${SLURM_RESTART_COUNT:-0}
max_restarts=${MIMDIT_MAX_RESTARTS:-50}

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # since Slurm 22.05, srun does not inherit it from sbatch
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1

say() {
    echo "[$(date +%FT%T) job $job start $((restarts + 1))] $*"
}

# mimdit OPTIONS…: run one process of mimdit per task. The first that fails ends the others, which would otherwise wait half an hour for it.
mimdit() {
    local options=(--kill-on-bad-exit=1) inside=()
    case ${MIMDIT_CONTAINER:-} in
        '') ;;
        *.sif) inside=(apptainer exec --nv --bind "$PWD${MIMDIT_MOUNTS:+,$MIMDIT_MOUNTS}" --pwd "$PWD" "$MIMDIT_CONTAINER") ;;
        *) options+=(--container-image="$MIMDIT_CONTAINER" --container-mounts="$PWD:$PWD${MIMDIT_MOUNTS:+,$MIMDIT_MOUNTS}"
            --container-workdir="$PWD") ;;
    esac
    srun "${options[@]}" ${inside[@]+"${inside[@]}"} "${MIMDIT_PYTHON:-$PWD/.venv/bin/python}" -m mimdit "$@"
}

# Exit if the limit of restarts is exceeded. Slurm requeues after a node failure or a preemption by itself, so every start checks it.
stop_if_restarted_too_often() {
    if ((restarts > max_restarts)); then
        say "restarted $restarts times; MIMDIT_MAX_RESTARTS=$max_restarts allows no more"
        exit 1
    fi
}

# start_again REASON CODE: requeue this job, or exit with CODE if the limit of restarts is reached.
start_again() {
    if ((restarts >= max_restarts)); then
        say "$1, but MIMDIT_MAX_RESTARTS=$max_restarts is reached: not requeued"
        exit "$2"
    fi
    say "$1: requeuing the job"
    scontrol requeue "$job" || exit "$2"
    exit 0
}

# train OPTIONS…: run fit from the newest complete checkpoint; requeue the job on the signal that precedes the time limit.
train() {
    stop_if_restarted_too_often
    # SIGTERM of a scancel or a requeue also reaches this shell; it must wait while the ranks save.
    trap 'say "SIGTERM: waiting for the ranks"' TERM
    if [ "${DOCTOR:-0}" = 1 ]; then
        mimdit doctor || exit
    fi
    export MIMDIT_HOLD_SIGNALS=1
    mimdit fit --ckpt_path=last "$@" --config configs/slurm.yaml \
        --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.num_nodes="$SLURM_NNODES"
    local code=$?
    say "mimdit fit exited with code $code"
    case $code in
        85) start_again "stop signal, checkpoint saved" $code ;;
        138) start_again "SIGUSR1 arrived before Python could block it" $code ;;  # 128 + 10
    esac
    exit $code
}
