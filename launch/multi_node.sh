#!/usr/bin/env bash
# Several machines with several GPUs each (DDP). Run it once on every machine, with that machine's rank:
#
#   MACHINES=2 RANK_OF_MACHINE=0 MAIN=10.0.0.1 GPUS=8 launch/multi_node.sh recipes/sentiment.yaml --set output=/shared/run
#
# Under Slurm:  srun --nodes 2 --ntasks-per-node 1 launch/multi_node.sh recipes/sentiment.yaml
# The output folder must be on storage that every machine sees; only rank 0 writes.
set -euo pipefail

machines="${MACHINES:-${SLURM_NNODES:?set MACHINES to the number of machines}}"
rank="${RANK_OF_MACHINE:-${SLURM_NODEID:?set RANK_OF_MACHINE to the rank of this machine, from 0}}"
gpus="${GPUS:-${SLURM_GPUS_ON_NODE:?set GPUS to the number of GPUs of each machine}}"
main="${MAIN:-$(scontrol show hostnames "${SLURM_JOB_NODELIST:?set MAIN to the address of machine 0}" | head -n 1)}"

exec accelerate launch \
    --config_file "$(dirname "$0")/ddp.yaml" \
    --num_machines "$machines" --num_processes "$((machines * gpus))" --machine_rank "$rank" \
    --main_process_ip "$main" --main_process_port "${PORT:-29500}" \
    -m fingpt_lora.train "$@"
