#!/bin/bash
# sbatch --nodes 2 --gpus-per-node 4 nbs/repro/cluster/torchrun.sh --profile paper --photos PHOTOS -o RUN
#SBATCH --job-name=deeplandscape
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# One torchrun on each node; they meet on the first one. Two minutes before the time limit each training is asked to
# stop, and writes a checkpoint; the same command goes on from it.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:${RENDEZVOUS_PORT:-29500}" \
    --no-python deeplandscape train "$@"
