"""A Slurm of its own on this machine: munged, slurmctld and two slurmd under a temporary folder, independent of any real cluster.

Configuration, munge socket and key, state, spool, logs, pids and ports are its own, and it ends only the processes that it started.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")

CONF = """
ClusterName=mimdittest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
PlugStackConfig={folder}/plugstack.conf
FirstJobId={first_job}
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MessageTimeout=60
ReturnToService=2
KillWait=30
MinJobAge=600
JobRequeue=1
SlurmdParameters=config_overrides
GresTypes=gpu
SlurmctldTimeout=300
SlurmdTimeout=300
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=4000 Gres=gpu:4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=4000 Gres=gpu:4
PartitionName=test Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def what_is_missing() -> list[str]:
    """The programs that this machine lacks."""
    return [name for name in PROGRAMS if _program(name) is None]


class Cluster:
    """Two virtual nodes, n1 and n2, of 8 processors each as configured in Slurm."""

    def __init__(self) -> None:
        # munge's socket may have 107 characters, so not in pytest's folder
        self.folder = Path(tempfile.mkdtemp(prefix="mimdit-slurm-"))
        self._daemons: dict[str, subprocess.Popen] = {}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        self.environment["SLURM_CONF"] = str(self.folder / "slurm.conf")

    def __enter__(self) -> Cluster:
        """Start it.

        Raises:
            RuntimeError: It did not come up; the daemons' logs are in the message.
        """
        try:
            self._configure()
            self._start_munge()
            self._daemon("slurmctld", "-D")
            for node in ("n1", "n2"):
                self.start_node(node)
            self.wait("both nodes idle", lambda: self("sinfo", "-h", "-N", "-o", "%N %T") == "n1 idle\nn2 idle", 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the jobs, then the daemons, then the folder."""
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].poll() is None:
            subprocess.run([_program("scancel"), "--full", "--signal=KILL", "--user", getpass.getuser()], env=self.environment, timeout=30)
            subprocess.run([_program("scancel"), "--user", getpass.getuser()], env=self.environment, timeout=30)
            deadline = time.monotonic() + 40
            while self("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.3)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __call__(self, program: str, *options: object) -> str:
        """Return the output of a Slurm command.

        Raises:
            RuntimeError: It failed.
        """
        command = [_program(program), *map(str, options)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout.strip()

    def wait(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Wait until ``condition()`` holds.

        Raises:
            TimeoutError: It did not within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s for: {what}")
            time.sleep(0.1)

    def state(self, job: str) -> str:
        """A job's state, as ``RUNNING``; ``UNKNOWN`` between two of them."""
        shown = self("scontrol", "show", "job", job, "-o")
        return re.search(r"JobState=(\S+)", shown)[1]

    def shown(self, job: str, key: str) -> str:
        """A field of ``scontrol show job``."""
        return re.search(rf"\b{key}=(\S+)", self("scontrol", "show", "job", job, "-o"))[1]

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon("slurmd", "-D", "-N", node, name=node)

    def lose_node(self, node: str) -> None:
        """Kill a node's slurmd and whatever runs there, as a power failure would, and let the controller find out now."""
        slurmd = self._daemons.pop(node)
        for pid in [*_descendants(slurmd.pid), *self._stepds(node)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        slurmd.kill()
        slurmd.wait()
        self("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def _stepds(self, node: str) -> list[int]:
        """The slurmstepd of a node, which are no children of its slurmd, and all below them."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                environ, name = (place / "environ").read_bytes(), (place / "comm").read_text()
            except OSError:
                continue
            own = f"SLURM_CONF={self.folder}/slurm.conf".encode() in environ
            if own and name.startswith("slurmstepd") and f"SLURMD_NODENAME={node}".encode() in environ:
                found += [int(place.name), *_descendants(int(place.name))]
        return found

    def _configure(self) -> None:
        for name in ("state", "spool", "log", "munge", "dev"):
            (self.folder / name).mkdir()
        for number in range(4):  # no GPU is touched: the tasks of these tests compute on the CPU
            (self.folder / "dev" / f"nvidia{number}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/dev/nvidia[0-3]\n")
        (self.folder / "plugstack.conf").write_text("")
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        # the rendezvous port is made of the job's number, so a number that is not that of another cluster's first job
        facts = {"folder": self.folder, "host": host, "user": user, "ports": _free_ports(3), "first_job": 1000 + os.getpid() % 8000}
        (self.folder / "slurm.conf").write_text(CONF.format(**facts))

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in places.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        self.wait("munge's socket", (munge / "socket").exists, 10)

    def _daemon(self, program: str, *options: str, name: str | None = None) -> None:
        log = (self.folder / "log" / f"{name or program}.out").open("a")
        self._daemons[name or program] = subprocess.Popen(
            [_program(program), *options], env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
        )


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SBIN]))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(place.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return found
