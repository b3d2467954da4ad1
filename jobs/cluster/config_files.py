"""The text of slurm.conf and its companions. Only what differs from Slurm's defaults is said, and why."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.cluster.settings import DEVICES, Settings

CLUSTER_NAME = "trialfleet"

_SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={settings.port}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/run/slurmctld.pid
SlurmdPidFile={directory}/run/%n.pid
SlurmdLogFile={directory}/log/%n.steps.log
MailProg=/bin/true
# Listen on 127.0.0.1 only.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny

# A credential's life is also how long a requeued job waits to start again: 120 s by default.
AuthInfo=socket={directory}/munge/socket,cred_expire=5

# No cgroups, which take root and a machine of their own. Memory is watched by polling instead: a job that
# takes too much is killed, too, but ends FAILED where cgroups make it OUT_OF_MEMORY.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill

# Nodes may claim more than the machine has; one that failed is back as soon as its slurmd answers.
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={memory_per_cpu}

# Everything at once: tests wait for nothing that a busy cluster would batch up.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,default_queue_depth=1000
PriorityType=priority/basic
EpilogMsgTime=0
KillWait=3
SlurmdTimeout=10
UnkillableStepTimeout=20
MinJobAge={settings.min_job_age}

# A job in `high` takes the nodes of jobs in `low`, which get --signal's signal, then GraceTime to save.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

{accounting}
{gres_types}
NodeName=DEFAULT CPUs={settings.cpus} CoresPerSocket={settings.cpus} RealMemory={settings.memory} {gres}
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports}

PartitionName=DEFAULT Nodes={nodes} State=UP MaxTime=INFINITE DefaultTime=60
PartitionName=main PriorityTier=10 PreemptMode=OFF Default=YES
PartitionName=short PriorityTier=10 PreemptMode=OFF MaxTime=1 DefaultTime=1
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high PriorityTier=100 PreemptMode=OFF
"""

# With munge, AccountingStoragePass is the socket that clients use towards slurmdbd.
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={settings.dbd_port}
AccountingStoragePass={directory}/munge/socket
AccountingStorageTRES=gres/gpu
"""

_SLURMDBD_CONF = """\
AuthInfo=socket={directory}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={settings.dbd_port}
SlurmUser={user}
PidFile={directory}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
# Write at once: a test asks for what has just happened.
CommitDelay=0
"""


def write_config(settings: Settings, directory: Path, host: str, user: str) -> None:
    """Write all files Slurm and munge read, anew; the munge key only if there is none yet."""
    place = {"settings": settings, "directory": directory, "host": host, "user": user}
    gpus = settings.gpus
    slurm_conf = _SLURM_CONF.format(
        cluster=CLUSTER_NAME,
        memory_per_cpu=max(1, settings.memory // settings.cpus),
        accounting=_ACCOUNTING.format(**place) if settings.accounting == "dbd" else "",
        gres_types="GresTypes=gpu" if gpus else "",
        gres=f"Gres=gpu:{gpus}" if gpus else "",
        nodes=f"{settings.prefix}[1-{settings.nodes}]",
        ports=f"[{settings.node_ports[0]}-{settings.node_ports[-1]}]",
        **place,
    )
    (directory / "slurm.conf").write_text(slurm_conf)
    # Slurm sets CUDA_VISIBLE_DEVICES only for GPUs that have device files.
    gres_conf = f"AutoDetect=off\nName=gpu File={','.join(DEVICES[:gpus])}\n" if gpus else ""
    (directory / "gres.conf").write_text(gres_conf)
    (directory / "plugstack.conf").write_text("")
    if settings.accounting == "dbd":
        _write_private(directory / "slurmdbd.conf", _SLURMDBD_CONF.format(**place).encode())
    key = directory / "munge" / "key"
    if not key.exists():
        _write_private(key, os.urandom(128))


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
