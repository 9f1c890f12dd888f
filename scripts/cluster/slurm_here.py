"""A Slurm of one node on this machine and its loopback, to try hydra/launcher=cluster_slurm with.

    python scripts/cluster/slurm_here.py start FOLDER
    export SLURM_CONF=FOLDER/slurm.conf
    python run.py guidance.clip=500,1000,2000 hydra/launcher=cluster_slurm -m
    python scripts/cluster/slurm_here.py stop FOLDER

Needs slurmctld, slurmd and the client (Debian: apt-get install slurmctld slurmd slurm-client). It
trusts everybody on this machine: it is for tests, not for a cluster.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
NodeName=here NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory}
PartitionName=main Nodes=here Default=YES MaxTime=INFINITE State=UP
"""
DAEMONS = ("slurmctld", "slurmd")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian keeps daemons


def start(folder: Path) -> None:
    """Write the config, start both daemons and wait until the node takes jobs."""
    missing = [name for name in (*DAEMONS, "sbatch", "squeue") if not shutil.which(name, path=PATH)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (slurmctld, slurmd, slurm-client)")
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    about = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
    about |= {"ctld": free_port(), "slurmd": free_port(), "folder": folder}
    about |= {"cores": os.cpu_count(), "memory": memory - 512}
    (folder / "slurm.conf").write_text(CONF.format(**about))
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    subprocess.run(["slurmctld"], env=environment, check=True)
    subprocess.run(["slurmd", "-N", "here"], env=environment, check=True)
    for _ in range(60):
        asked = ["sinfo", "--noheader", "--format=%t"]
        state = subprocess.run(asked, env=environment, capture_output=True, text=True).stdout
        if state.strip() == "idle":
            print(f"export SLURM_CONF={folder / 'slurm.conf'}")
            return
        time.sleep(0.5)
    stop(folder)
    sys.exit(f"the node does not come up ({state.strip() or 'no answer'}): see {folder}/*.log")


def stop(folder: Path) -> None:
    """End both daemons, and with slurmd its jobs."""
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    with suppress(OSError):
        subprocess.run(["scancel", "--me"], env=environment, capture_output=True, timeout=20)
        time.sleep(1)
    for name in DAEMONS:
        with suppress(OSError, ValueError):
            os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    {"start": start, "stop": stop}[sys.argv[1]](Path(sys.argv[2]).resolve())
