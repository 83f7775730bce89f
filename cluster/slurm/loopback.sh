#!/bin/bash
# A Slurm cluster of two nodes on this machine alone, to try things on; as root (Debian: apt-get install slurm-wlm).
#
#     export SLURM_CONF=FOLDER/slurm.conf        # for sbatch, squeue, `make sweep ON=slurm` ...
#     cluster/slurm/loopback.sh start FOLDER     # what it writes goes there
#     cluster/slurm/loopback.sh kill FOLDER node2     # as if that machine had lost its power: all that runs on it is gone at once
#     cluster/slurm/loopback.sh stop FOLDER
set -euo pipefail
action=$1 folder=$(realpath -m "$2")
export SLURM_CONF=$folder/slurm.conf

start() {
    mkdir -p "$folder/state"
    cat > "$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/%n
SlurmdPidFile=$folder/%n.slurmd.pid
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26818 CPUs=1
NodeName=node2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26819 CPUs=1
PartitionName=all Nodes=ALL Default=YES
CONF
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 400 "$folder/munge.key"
    background munged --foreground --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
        --pid-file "$folder/munged.pid" --log-file "$folder/munged.log" --seed-file "$folder/munged.seed"
    background slurmctld -D
    # Each node has its processes to itself, and they end with the first of them.
    for node in node1 node2; do
        background unshare --pid --fork --mount-proc --kill-child slurmd -D -N "$node"
        echo $! > "$folder/$node.pid"
    done
    for _ in {1..300}; do
        [ "$(sinfo --noheader --states idle --format %D 2> /dev/null)" = 2 ] && return
        sleep 0.2
    done
    echo "loopback: the nodes do not answer; their logs are in $folder" >&2
    exit 1
}

background() {
    "$@" < /dev/null >> "$folder/output.log" 2>&1 &
    echo $! >> "$folder/pids"
}

case $action in
    start) start ;;
    kill) kill -9 "$(cat "$folder/$3.pid")" ;;
    stop) xargs kill -9 < "$folder/pids" 2> /dev/null || true ;;
esac
