#!/usr/bin/env bash
#SBATCH --job-name=gaunlearn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue
#
# Runs a sweep on all nodes of a SLURM allocation: Ray on each, the driver on the first.
#
#   sbatch cluster/slurm.sh sweeps/step_size.toml --out /shared/runs/step_size
#   sbatch --nodes=8 --gpus-per-node=4 cluster/slurm.sh SPEC --out DIR --gpus-per-task 1
#
# DIR lies on a file system that all nodes share, or is an object store's URI. A job that is killed,
# preempted or out of time has lost nothing: submit it again and it goes on (after preemption or a
# node's failure --requeue does so).
# GAUNLEARN_BIN names the directory of the environment's programs (.venv/bin of the directory that
# the job was submitted from).

set -euo pipefail

if [ -z "${SLURM_JOB_NODELIST:-}" ]; then
  echo "slurm.sh: not in a SLURM job: submit it with sbatch" >&2
  exit 2
fi
bin=$(realpath "${GAUNLEARN_BIN:-${SLURM_SUBMIT_DIR:-.}/.venv/bin}")
if [ ! -x "$bin/ray" ] || [ ! -x "$bin/gaunlearn" ]; then
  echo "slurm.sh: $bin has no ray and gaunlearn: pip install 'gaunlearn[cluster]' there" >&2
  exit 2
fi
# Jobs that share a node need ports and directories of their own; sockets need a short path.
port=$((20000 + SLURM_JOB_ID % 20000))
directory=/tmp/ray-$SLURM_JOB_ID
export RAY_USAGE_STATS_ENABLED=0
# Others on these hosts are not to send it anything; srun hands the token on.
RAY_AUTH_TOKEN=$(od --address-radix=n --read-bytes=32 --format=x1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

one=(srun --nodes=1 --ntasks=1 --overlap)

ray_on() { # ray_on NODE ARGUMENTS...: for as long as the job lasts
  "${one[@]}" --nodelist="$1" "$bin/ray" start "${@:2}" --block \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    >"ray-$SLURM_JOB_ID-$1.log" 2>&1 &
}

stop() {
  # Only ours: the first node's end is the cluster's.
  mapfile -t started < <(jobs -p)
  [ "${#started[@]}" -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  wait
  srun --nodes="${#nodes[@]}" --ntasks-per-node=1 --overlap rm -rf "$directory"
}
trap stop EXIT

addresses=$("${one[@]}" --nodelist="${nodes[0]}" hostname --ip-address)
case $addresses in
  # Where a host's own name means itself only, others reach it by the address of its network.
  127.*) addresses=$("${one[@]}" --nodelist="${nodes[0]}" hostname --all-ip-addresses) ;;
esac
address=${addresses%% *}:$port
ray_on "${nodes[0]}" --head --node-ip-address="${address%:*}" --port="$port" \
  --include-dashboard=false --temp-dir="$directory"
for _ in $(seq 120); do
  (exec 3<>"/dev/tcp/${address%:*}/$port") 2>/dev/null && break
  sleep 1
done
# Whichever of them come late are used from then on.
for node in "${nodes[@]:1}"; do
  ray_on "$node" --address="$address"
done

"$bin/gaunlearn" run "$@" --cluster "$address"
