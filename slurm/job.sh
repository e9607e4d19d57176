# Sourced by the job scripts, in the folder that they were submitted from: the site's facts, how tasks start, and when a job starts again.
# shellcheck shell=bash
set -uo pipefail
cd "$SLURM_SUBMIT_DIR" || exit 2
source "${MIMDIT_SITE:-slurm/site.env}"

# What scontrol calls this job: the last task of an array has the array's own number as SLURM_JOB_ID.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
restarts=${SLURM_RESTART_COUNT:-0}
max_restarts=${MIMDIT_MAX_RESTARTS:-50}

export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it from sbatch since Slurm 22.05
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1

say() {
    echo "[$(date +%FT%T) job $job start $((restarts + 1))] $*"
}

# One process of mimdit per task of the job. The first that fails ends the others, which would wait for it for half an hour.
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

# Slurm requeues after a lost node or a preemption without asking this script, so the cap is looked at before anything starts, too.
stop_if_restarted_too_often() {
    if ((restarts > max_restarts)); then
        say "started again $restarts times; MIMDIT_MAX_RESTARTS=$max_restarts allows no more"
        exit 1
    fi
}

# start_again REASON CODE: put this job back into the queue, or leave with CODE if that happened often enough.
start_again() {
    if ((restarts >= max_restarts)); then
        say "$1, but MIMDIT_MAX_RESTARTS=$max_restarts is reached: not started again"
        exit "$2"
    fi
    say "$1: asking for a new start"
    scontrol requeue "$job" || exit "$2"
    exit 0
}

# train OPTIONS…: fit, going on from the newest complete checkpoint, and again after the signal before the time limit.
train() {
    stop_if_restarted_too_often
    # A scancel or a requeue reaches this shell, too. The ranks save; it waits for them.
    trap 'say "SIGTERM: waiting for the ranks"' TERM
    if [ "${DOCTOR:-0}" = 1 ]; then
        mimdit doctor || exit
    fi
    export MIMDIT_HOLD_SIGNALS=1
    mimdit fit --ckpt_path=last "$@" --config configs/slurm.yaml \
        --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.num_nodes="$SLURM_NNODES"
    local code=$?
    say "mimdit fit left with code $code"
    case $code in
        85) start_again "saved before the end" $code ;;
        138) start_again "SIGUSR1 came before Python could hold it" $code ;;  # 128 + 10
    esac
    exit $code
}
