#!/bin/bash
# A Slurm of one node on the loopback interface, for tests: munge, slurmctld and slurmd from Debian's packages
# (apt-get install slurmctld slurmd munge slurm-client).
#
#   one_node_slurm.sh start FOLDER [CPUS]   everything is in FOLDER; source FOLDER/environment to use it
#   one_node_slurm.sh stop FOLDER
#
# Needs root, as slurmd does. Nothing outside of FOLDER is written, and no file of an installed Slurm is read.
set -euo pipefail

action=$1
folder=$(realpath -m "$2")

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
    local cpus=${1:-2} host
    host=$(hostname -s)
    mkdir -p "$folder"/{state,spool,log}
    # munge refuses folders that others can write to.
    mkdir -p -m 0711 "$folder/munge"
    (umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
    munged --force --num-threads 2 --key-file "$folder/munge/key" --socket "$folder/munge/socket" \
        --pid-file "$folder/munge/pid" --log-file "$folder/munge/log" --seed-file "$folder/munge/seed"
    cat > "$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts when its first credential has expired, after two minutes where nothing is set.
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
KillWait=60
MinJobAge=300
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    echo "export SLURM_CONF=$folder/slurm.conf" > "$folder/environment"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c
    slurmd -c
    for _ in $(seq 60); do
        if sinfo --noheader --format %T 2> "$folder/log/sinfo" | grep -q idle; then
            return
        fi
        sleep 0.5
    done
    echo "The node did not come up:" >&2
    cat "$folder/log/sinfo" "$folder/log/slurmctld" "$folder/log/slurmd" >&2
    exit 1
}

stop() {
    local name
    export SLURM_CONF=$folder/slurm.conf
    scancel --quiet --user root --signal KILL 2> /dev/null || true
    for name in slurmd.pid slurmctld.pid munge/pid; do
        if [ -f "$folder/$name" ]; then
            kill "$(cat "$folder/$name")" || true
        fi
    done
}

case $action in
    start) start "${3:-2}" ;;
    stop) stop ;;
esac
