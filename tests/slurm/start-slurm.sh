#!/usr/bin/env bash
# A real SLURM on this one machine, from Debian packages, without systemd and cgroups. As root.
#   start-slurm.sh [start|stop|status|install|running|may]
# may, running: exit codes that say whether this machine is free for it, and whether it runs.
# From the environment, to be changed after a stop only:
#   ACCOUNTING  1: mariadb and slurmdbd, so that sacct works (default); 0: squeue alone
#   CPUS, GPUS, MEMORY (MB)  as given, may exceed the machine; default: what is there, one GPU
# GPUs are device files: enough for --gpus and CUDA_VISIBLE_DEVICES. Partitions: cpu (default), gpu,
# and scavenge, whose jobs the others pre-empt: SIGTERM, 20 seconds later back to the queue.
# Starting again starts only what does not run.
set -euo pipefail
ACCOUNTING=${ACCOUNTING:-1}
MARK='# written by start-slurm.sh'
PIDS=/run/slurm-local; LOGS=/var/log/slurm; STATE=/var/lib/slurm-local
log() { printf 'slurm: %s\n' "$*" >&2; }
alive() { # pid file's process exists and is that daemon (a pid file may outlive its machine)
  local p; [ -s "$PIDS/$1.pid" ] && p=$(cat "$PIDS/$1.pid") && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$1" ]; }
wait_for() { local n=$1; shift; for ((i = 0; i < n * 5; i++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done; log "gave up after ${n}s on: $*"; return 1; }

stop() {
  for d in slurmd slurmctld slurmdbd mariadbd munged; do
    f=$PIDS/$d.pid
    if alive "$d"; then
      p=$(cat "$f"); kill "$p" || true
      for ((i = 0; i < 100; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
      if kill -0 "$p" 2>/dev/null; then kill -9 "$p"; log "$d killed"; else log "$d stopped"; fi
    fi
    rm -f "$f"
  done
}

may() { # never touch a SLURM that somebody else has set up here
  [ ! -e /etc/slurm/slurm.conf ] || grep -qxF "$MARK" /etc/slurm/slurm.conf || { log "/etc/slurm/slurm.conf is not ours"; return 1; }
}

install_pkgs() {
  local want=(munge slurmctld slurmd slurm-client) missing=()
  [ "$ACCOUNTING" = 1 ] && want+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server)
  for p in "${want[@]}"; do dpkg -s "$p" 2>/dev/null | grep -q '^Status: install ok installed' || missing+=("$p"); done
  [ ${#missing[@]} -eq 0 ] && return
  log "apt-get install ${missing[*]}"
  apt-get update -qq
  # a policy-rc.d that denies (or a missing init) keeps the postinsts from starting anything
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

write_conf() {
  local host cpus mem gpus=${GPUS:-1} task=affinity
  host=$(hostname -s)
  cpus=${CPUS:-$(nproc)}; mem=${MEMORY:-$(($(awk '/^MemTotal/{print $2}' /proc/meminfo) / 1024 - 1024))}
  getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >> /etc/hosts # slurm must resolve its own host name
  [ "$cpus" -gt "$(nproc)" ] && task=none # cannot bind to cores that are not there
  mkdir -p /etc/slurm "$STATE"/{ctld,spool} "$PIDS" "$LOGS"
  chown slurm:slurm "$STATE/ctld" "$LOGS"; chown slurm:slurm "$PIDS"
  cat > /etc/slurm/slurm.conf <<C
$MARK
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=slurm
SlurmdUser=root
# listen on loopback only
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
# a requeued job waits as long as a credential lives: 120 s by default
AuthInfo=cred_expire=15
SlurmctldPidFile=$PIDS/slurmctld.pid
SlurmdPidFile=$PIDS/slurmd.pid
SlurmctldLogFile=$LOGS/slurmctld.log
SlurmdLogFile=$LOGS/slurmd.log
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/spool
MailProg=/bin/true
# process tracking without cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/$task
# believe the NodeName line below rather than the hardware
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
KillWait=5
# finished jobs stay visible to squeue and scontrol this long: the tests look back
MinJobAge=7200
MaxJobCount=5000
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$mem Gres=gpu:fake:$gpus State=UNKNOWN
PartitionName=cpu      Nodes=$host Default=YES MaxTime=1-00:00:00 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=gpu      Nodes=$host Default=NO  MaxTime=1-00:00:00 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=$host Default=NO  MaxTime=1-00:00:00 State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime=20
C
  if [ "$ACCOUNTING" = 1 ]; then
    cat >> /etc/slurm/slurm.conf <<C
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
C
    cat > /etc/slurm/slurmdbd.conf <<C
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
SlurmUser=slurm
PidFile=$PIDS/slurmdbd.pid
LogFile=$LOGS/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
C
    chown slurm:slurm /etc/slurm/slurmdbd.conf; chmod 600 /etc/slurm/slurmdbd.conf
  else
    echo 'AccountingStorageType=accounting_storage/none' >> /etc/slurm/slurm.conf
  fi
  # GPUs that are only device files: enough for --gres=gpu:1, --gpus and CUDA_VISIBLE_DEVICES
  mkdir -p "$STATE/dev"; : > /etc/slurm/gres.conf
  for ((i = 0; i < gpus; i++)); do
    [ -e "$STATE/dev/gpu$i" ] || mknod "$STATE/dev/gpu$i" c 1 3 # a regular file would not set CUDA_VISIBLE_DEVICES
    echo "NodeName=$host Name=gpu Type=fake File=$STATE/dev/gpu$i" >> /etc/slurm/gres.conf
  done
}

start() {
  may
  install_pkgs
  write_conf
  if ! alive munged; then
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /var/lib/munge /var/log/munge /etc/munge
    [ -s /etc/munge/munge.key ] || { head -c 128 /dev/urandom > /etc/munge/munge.key; chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
    runuser -u munge -- /usr/sbin/munged --force
    cp /run/munge/munged.pid "$PIDS/munged.pid"
  fi
  wait_for 10 bash -c 'munge -n | unmunge'
  if [ "$ACCOUNTING" = 1 ]; then
    if ! alive mariadbd; then
      install -d -o mysql -g root -m 755 /run/mysqld
      setsid nohup /usr/sbin/mariadbd --user=mysql --skip-networking --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900 \
        --pid-file=/run/mysqld/mysqld.pid --log-error="$LOGS/mariadb.log" </dev/null >/dev/null 2>&1 &
      echo $! > "$PIDS/mariadbd.pid"
    fi
    wait_for 60 mariadb-admin ping
    mariadb -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db; CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';"
    alive slurmdbd || slurmdbd
    wait_for 60 sacctmgr -n list cluster
    sacctmgr -n list cluster format=cluster%20 | grep -qw local || sacctmgr -i add cluster local >/dev/null
    sacctmgr -n list account format=account%20 | grep -qw lab || sacctmgr -i add account lab Cluster=local Description=lab >/dev/null
    sacctmgr -n list user "$(id -un)" format=defaultaccount%20 | grep -qw lab || sacctmgr -i add user "$(id -un)" Account=lab DefaultAccount=lab >/dev/null || true
  fi
  alive slurmctld || slurmctld
  wait_for 30 scontrol ping
  alive slurmd || slurmd
  # the pid files are written by the daemons after they fork; sinfo says when the node is usable
  wait_for 30 bash -c "sinfo -h -o %T | grep -qE '^(idle|mixed|allocated)'"
  wait_for 30 srun -n1 -t1 --mem=50 true
  log "up: $(sinfo -h -o '%P %D %c cpus %m MB %G %T' | tr '\n' ';')"
}

case ${1:-start} in
  start) start ;;
  stop) stop ;;
  status) sinfo; squeue ;;
  install) install_pkgs ;;
  running) alive slurmctld && alive slurmd ;;
  may) may ;;
  *) echo "usage: $0 [start|stop|status|install|running|may]" >&2; exit 2 ;;
esac
