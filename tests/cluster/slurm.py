"""A small SLURM for the tests: real daemons in a folder of their own, started and ended with the tests.

Needs root and Debian's packages (``PACKAGES``), but neither systemd nor cgroups nor a configured system: its settings, key,
ports, sockets and database are its own, and whoever is to see it is told by ``SLURM_CONF``.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cluster import processes

PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd slurm-wlm-mysql-plugin mariadb-server"
PROGRAMS = ("munged", "mariadb-install-db", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "setpriv")
PREFIX = "kga-slurm-"  # of the folders; the id of the process that owns one follows
# Two nodes on this machine. Addresses for names: those resolve everywhere, while the host's own name does not in every
# container, and processes on several nodes look for each other by the name of the first.
NODES = ("127.0.0.1", "127.0.0.2")
CPUS = 4  # of each node; more than there are, as tests need several jobs at a time rather than fast ones
PATIENCE = 30.0  # seconds that a daemon has to come up

# Accounting is on: without it nobody can tell a cancelled job from one that is still to come.
SETTINGS = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is put back into the queue waits until its old credential has expired: 5 seconds instead of 120.
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
MailProg=/bin/true

# Nothing that needs cgroups: processes are followed by their parents, memory and cores are not enforced.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={root}/munge.socket

# Jobs start as soon as they can, are sent SIGUSR2 (--signal) before they give way to a higher partition, and have
# seconds rather than minutes to end. Ended jobs stay visible.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=2
MinJobAge=600

# The nodes have what is said here, whatever the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
"""
ONE_NODE = "NodeName={name} Port={port} CPUs={cpus} RealMemory=64000 State=UNKNOWN"

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo={root}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


def lacking() -> str | None:
    """Why there can be no cluster here, and what to do about it; None where there can be one."""
    if os.geteuid():
        return "the daemons of SLURM need root"
    missing = [name for name in PROGRAMS if _program(name) is None]
    return f"{', '.join(missing)} not found: apt-get install -y --no-install-recommends {PACKAGES}" if missing else None


class Slurm:
    """A running cluster, between ``start`` and ``stop``."""

    def __init__(self) -> None:
        clear_leftovers()
        # Below /tmp, not pytest's folder: paths of sockets may have 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/tmp"))
        self.settings = self.root / "slurm.conf"
        self._daemons: list[subprocess.Popen] = []
        self._earlier: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that is to use this cluster; its own processes are known by it, too."""
        return {"SLURM_CONF": str(self.settings)}

    # Starting and ending -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all daemons; returns when jobs can be submitted."""
        self._write_settings()
        self._start_munge()
        self._start_database()
        self._daemon("slurmdbd", "-D", SLURM_CONF=str(self.root / "slurmdbd.conf"), MYSQL_UNIX_PORT=self._socket)
        self._until(lambda: self.said("sacctmgr", "-n", "-i", "show", "cluster") is not None, "slurmdbd")
        self.ask("sacctmgr", "-i", "add", "cluster", "tests")
        self._daemon("slurmctld", "-D")
        self._until(lambda: "is UP" in (self.said("scontrol", "ping") or ""), "slurmctld")
        for name in NODES:
            self._daemon("slurmd", "-D", "-N", name)
        self._until(lambda: self.said("sinfo", "-h", "-p", "main", "-o", "%D %T") == f"{len(NODES)} idle", "slurmd")

    def stop(self) -> None:
        """Ends all processes of the cluster, jobs included, and removes its folder. Nothing of it is worth keeping."""
        processes.end(self.root)
        for daemon in self._daemons:
            daemon.wait()
        shutil.rmtree(self.root)

    def _write_settings(self) -> None:
        for name in ("state", "work"):
            (self.root / name).mkdir()
        controller, accounting, *ports = _free_ports(2 + len(NODES))
        nodes = [ONE_NODE.format(name=name, port=port, cpus=CPUS) for name, port in zip(NODES, ports, strict=True)]
        values = {"root": self.root, "host": socket.gethostname().partition(".")[0], "nodes": "\n".join(nodes),
                  "controller": controller, "accounting": accounting}  # fmt: skip
        self.settings.write_text(SETTINGS.format(**values))
        private = self.root / "slurmdbd.conf"
        private.touch(mode=0o600)  # slurmdbd refuses a file that others may read
        private.write_text(ACCOUNTING.format(**values))

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key-file": key} | {f"{name}-file": self.root / f"munge.{name}" for name in ("log", "pid", "seed")}
        options = [f"--{name}={path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--socket={self.root / 'munge.socket'}", *options)
        self._until((self.root / "munge.socket").exists, "munged")

    def _start_database(self) -> None:
        """MariaDB without a port; nothing of it has to outlive a loss of power."""
        data = f"--datadir={self.root / 'database'}"
        install = ("--no-defaults", "--user=root", data, "--auth-root-authentication-method=normal", "--skip-test-db")
        own = {"TMPDIR": str(self.root / "work")}  # in a common one, two that are made at once take each other's tables
        with (self.root / "install.log").open("wb") as log:
            command = [_program("mariadb-install-db"), *install]
            subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | own)
        hasty = ("--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M")
        places = (data, f"--socket={self._socket}", f"--pid-file={self.root / 'mariadbd.pid'}", "--skip-networking")
        self._daemon(
            "mariadbd", "--no-defaults", "--user=root", *places, *hasty, "--innodb-lock-wait-timeout=900", **own
        )
        create = ("mariadb", "--no-defaults", "-uroot", "-S", self._socket, "-e", "create database accounting")
        self._until(lambda: self.said(*create) is not None, "mariadbd")

    @property
    def _socket(self) -> str:
        return str(self.root / "database.socket")

    def _daemon(self, name: str, *arguments: str, **environment: str) -> None:
        """Starts a daemon in the foreground. It ends with this process, also where that is killed."""
        with (self.root / f"{name}.out").open("ab") as out:
            command = [_program("setpriv"), "--pdeathsig", "TERM", _program(name), *arguments]
            environment = os.environ | self.environment | environment
            own = {"cwd": self.root / "work", "env": environment, "stdin": subprocess.DEVNULL}
            self._daemons.append(subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **own))

    def _until(self, condition: Callable[[], bool], daemon: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline or self._daemons[-1].poll() is not None:
                said = "".join(path.read_text()[-2000:] for path in sorted(self.root.glob(f"{daemon}*.out")))
                raise RuntimeError(f"waited for {daemon} in vain:\n{said}")
            time.sleep(0.05)

    # Using it ------------------------------------------------------------------------------------------------------

    def said(self, *command: str) -> str | None:
        """What a command of SLURM prints; None where it fails."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else None

    def ask(self, *command: str) -> str:
        """The same; AssertionError where it fails."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """{job: state} of all jobs since ``clear``, ended ones too; 12_3 in an array."""
        lines = self.ask("squeue", "--states=all", "--array", "--noheader", "--format=%i %T").splitlines()
        return {job: state for job, state in map(str.split, lines) if job not in self._earlier}

    def ended(self) -> dict[str, str]:
        """The same, once all are over: SLURM takes a moment to see that a process has ended."""
        self._until(lambda: not self.ask("squeue", "--noheader"), "squeue")
        return self.jobs()

    def clear(self) -> None:
        """Ends all jobs and leaves them out of ``jobs`` from now on."""
        self.ask("scancel", "--quiet", "--user=root")
        self._earlier |= self.ended().keys()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until the last one is found, so they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def clear_leftovers() -> None:
    """Removes clusters whose tests were killed: daemons end with them by themselves, jobs and folders do not."""
    for root in Path("/tmp").glob(f"{PREFIX}*"):
        owner = root.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            processes.end(root)
            shutil.rmtree(root, ignore_errors=True)
