"""Several processes ("ranks") at one run: which one this is, what they tell each other, and how they are started.

Every rank goes through the whole run; rank 0 alone writes and speaks. With one process all of this is trivial, and torch
is not imported by it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import threading
import time
import traceback
import warnings
from _thread import interrupt_main
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any, TypeVar

from kga.errors import UserError

T = TypeVar("T")
START = 300.0  # seconds that ranks may take to import, and to find each other
GRACE = 10.0  # seconds that rank 0 has to notice that another rank is gone
PATIENCE = timedelta(days=7)  # others wait while rank 0 makes something; a rank that dies is noticed at once
BUCKET = 2**24  # numbers of gradients that are added up at a time

_by_itself = False  # whether rank 0 works while the others wait
_objects = None  # the group that objects go through: of processors, also where tensors go from GPU to GPU
_crew: _Crew | None = None  # the ranks that this process has started


# Who this is --------------------------------------------------------------------------------------------------------


def _distributed():
    """torch.distributed where processes are joined, else None."""
    torch = sys.modules.get("torch")
    if _by_itself or torch is None or not torch.distributed.is_available():
        return None
    return torch.distributed if torch.distributed.is_initialized() else None


def rank() -> int:
    """Number of this process, from 0."""
    distributed = _distributed()
    return distributed.get_rank() if distributed else 0


def world_size() -> int:
    """Number of processes at this run."""
    distributed = _distributed()
    return distributed.get_world_size() if distributed else 1


def local_rank() -> int:
    """Number of this process on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0


@contextmanager
def by_itself() -> Iterator[None]:
    """Rank 0 works as if it were alone, while the others wait for it."""
    global _by_itself
    before, _by_itself = _by_itself, True
    try:
        yield
    finally:
        _by_itself = before


# What they tell each other ------------------------------------------------------------------------------------------


def barrier() -> None:
    """Waits until all ranks are here."""
    gather(None)


def gather(value: T) -> list[T]:
    """The values of all ranks, by rank, on each of them."""
    distributed = _distributed()
    if not distributed:
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value, group=_objects)
    return found


def broadcast(value: T) -> T:
    """Rank 0's value, on all ranks."""
    distributed = _distributed()
    if not distributed:
        return value
    held = [value]
    distributed.broadcast_object_list(held, 0, group=_objects)
    return held[0]


def from_main(function: Callable[[], T]) -> T:
    """What a function returns on rank 0, which runs it by itself, on all ranks; what it raises there, all raise."""
    if not _distributed():
        return function()
    value, error = None, None
    if is_main():
        try:
            with by_itself():
                value = function()
        except Exception as raised:
            error = raised
    value, told = broadcast((value, None if error is None else _portable(error)))
    if error or told:
        raise error or told
    return value


def total(tensor):
    """Sum of a tensor over the ranks, the same on each; the tensor itself stays as it is."""
    distributed = _distributed()
    if not distributed:
        return tensor
    tensor = tensor.clone()
    distributed.all_reduce(tensor)
    return tensor


def add_gradients(parameters: Iterable) -> None:
    """Puts the sum of the ranks' gradients into every rank's ``grad``; None where none of them has a gradient."""
    distributed = _distributed()
    if not distributed:
        return
    import torch

    held = [parameter for parameter in parameters if parameter.requires_grad]
    if not held:
        return
    has = total(torch.tensor([float(parameter.grad is not None) for parameter in held], device=held[0].device))
    held = [parameter for parameter, any_has in zip(held, has.tolist(), strict=True) if any_has]
    for bucket in _buckets(held):
        flat = torch.cat([
            torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
            for parameter in bucket
        ])  # fmt: skip
        distributed.all_reduce(flat)
        for parameter, summed in zip(bucket, flat.split([parameter.numel() for parameter in bucket]), strict=True):
            parameter.grad = summed.view_as(parameter).clone()


def _buckets(parameters: list) -> Iterator[list]:
    """Parameters in parts of one dtype and about ``BUCKET`` numbers each."""
    part: list = []
    for parameter in parameters:
        full = sum(other.numel() for other in part) + parameter.numel() > BUCKET
        if part and (full or parameter.dtype != part[0].dtype):
            yield part
            part = []
        part.append(parameter)
    if part:
        yield part


def whole(state: Mapping) -> dict:
    """A state dict whose tensors may be spread over the ranks, put together on the processor. All ranks call this."""
    parts = {name: tensor.detach() for name, tensor in state.items()}
    return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).cpu().clone() for name, t in parts.items()}


# How they are started -----------------------------------------------------------------------------------------------


def processes(options: Mapping) -> int:
    """How many processes the hardware (``trainer.*``) asks for."""
    return options.get("devices", 1) * options.get("num_nodes", 1)


def launch(function: Callable[[dict], T], cfg: dict) -> T:
    """``function(cfg)`` in as many processes as ``cfg["trainer"]`` asks for; returns what rank 0, this process, returns.

    Processes that torchrun or srun started join each other; else the others are started here, with the same plain
    config. Whatever ends one of them ends them all, and is raised here.
    """
    options = cfg["trainer"]
    count = processes(options)
    if count == 1:
        return function(cfg)
    _require_devices(options)
    if (number := _started_outside(count)) is not None:
        with joined(options, number, count):
            return function(cfg)
    if options.get("num_nodes", 1) > 1:
        raise UserError(
            f"trainer.num_nodes={options['num_nodes']}: on several machines start one process for each device, with "
            "torchrun or srun"
        )
    global _crew
    with _Crew(function, cfg, count) as _crew:
        try:
            _crew.wait_until_ready()
            with joined(options, 0, count):
                try:
                    return function(cfg)
                except BaseException as error:
                    if (reason := cause(error)) is error:
                        raise
                    raise reason from None
        finally:
            _crew = None


def cause(error: BaseException) -> BaseException:
    """What made this rank fail with ``error``: the error of another rank where this one only lost touch with it."""
    return _crew.cause(error) if _crew is not None else error


@contextmanager
def joined(options: Mapping, number: int, count: int) -> Iterator[None]:
    """This process as rank ``number`` of ``count``; the environment says at which address they meet."""
    global _objects
    import torch
    from torch import distributed

    gpu = on_gpu(options)
    if gpu:
        torch.cuda.set_device(local_rank())
    meeting = {"rank": number, "world_size": count}
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # whose own store is taken
        port = int(os.environ["MASTER_PORT"])
        meeting["store"] = distributed.TCPStore(
            os.environ["MASTER_ADDR"], port, count, number == 0, timeout=timedelta(seconds=START)
        )
    if gpu:
        distributed.init_process_group("nccl", **meeting)
        _objects = distributed.new_group(backend="gloo", timeout=PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE, **meeting)
    try:
        yield
    except BaseException:
        if gpu:  # what is under way on the GPU would be waited for
            with suppress(Exception):
                distributed.distributed_c10d._abort_process_group()
        raise
    finally:
        _objects = None
        if distributed.is_initialized():
            distributed.destroy_process_group()


def on_gpu(options: Mapping) -> bool:
    """Whether the hardware of the config comes down to GPUs of CUDA's here."""
    import torch

    return options.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _require_devices(options: Mapping) -> None:
    import torch

    if options.get("strategy") == "fsdp" and not on_gpu(options):
        raise UserError("trainer=fsdp needs GPUs, and there is none: choose trainer=ddp or trainer=cpu")
    if on_gpu(options) and torch.cuda.device_count() < options["devices"]:
        raise UserError(
            f"trainer.devices={options['devices']}: this machine has {torch.cuda.device_count()} GPUs; lower it, or set "
            "trainer.accelerator=cpu"
        )


def _started_outside(count: int) -> int | None:
    """This process's rank where a launcher started all of them, else None."""
    environment = os.environ
    if int(environment.get("WORLD_SIZE", 1)) > 1 and "RANK" in environment:
        started = int(environment["WORLD_SIZE"])
    elif int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in environment:
        from pytorch_lightning.plugins.environments import SLURMEnvironment

        slurm, started = SLURMEnvironment(), int(environment["SLURM_NTASKS"])
        environment.setdefault("MASTER_ADDR", slurm.main_address)
        environment.setdefault("MASTER_PORT", str(slurm.main_port))
        environment |= _numbers(int(environment["SLURM_PROCID"]), started, int(environment["SLURM_LOCALID"]))
    else:
        return None
    if started != count:
        raise UserError(
            f"trainer.devices x trainer.num_nodes asks for {count} processes, the launcher started {started}: make them equal"
        )
    return int(environment["RANK"])


def _numbers(number: int, count: int, local: int) -> dict[str, str]:
    return {"RANK": str(number), "LOCAL_RANK": str(local), "WORLD_SIZE": str(count)}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _portable(error: BaseException) -> BaseException:
    """The error as another process can read it."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an error holds that can't be written
        return RuntimeError("".join(traceback.format_exception(error)))


class _Crew:
    """The other ranks on this machine: started on entry and ended on exit. A thread watches that they live."""

    def __init__(self, function: Callable, cfg: dict, count: int) -> None:
        self.function, self.cfg, self.count = function, cfg, count
        self.workers: list = []
        self.pipes: list = []
        self.reports: dict[int, tuple[float, BaseException]] = {}
        self._over, self._interrupted = threading.Event(), False

    def __enter__(self) -> _Crew:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        context = multiprocessing.get_context("spawn")
        for number in range(1, self.count):
            mine, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(self.function, self.cfg, theirs), daemon=True)
            with _environment(meeting | _numbers(number, self.count, number)):  # before it imports anything
                worker.start()
            theirs.close()
            self.workers.append(worker)
            self.pipes.append(mine)
        self._set = _environment(meeting | _numbers(0, self.count, 0))
        self._set.__enter__()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind, *exception) -> None:
        self._over.set()
        self._set.__exit__(None, None, None)
        deadline = time.monotonic() + (GRACE if kind is None else 1.0)
        for worker in self.workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        for worker in self.workers:
            if worker.is_alive():
                worker.terminate()
                worker.join(GRACE)
            if worker.is_alive():
                worker.kill()

    def wait_until_ready(self) -> None:
        """Returns once all have imported what they need; raises what kept one of them from it."""
        deadline, waiting = time.monotonic() + START, dict(enumerate(self.pipes, start=1))
        while waiting:
            for number in list(waiting):
                if waiting[number].poll(0.05):
                    self._hear(number)
                    del waiting[number]
            lost = self._lost()
            if lost or time.monotonic() > deadline:
                raise lost or UserError(f"other processes did not start within {START:.0f} s")

    def cause(self, error: BaseException) -> BaseException:
        """The error of the rank that failed first; ``error`` if that is this one."""
        if isinstance(error, UserError) or (isinstance(error, KeyboardInterrupt) and not self._interrupted):
            return error
        losing_touch = isinstance(error, RuntimeError | KeyboardInterrupt)
        ended = wait([worker.sentinel for worker in self.workers], timeout=GRACE if losing_touch else 0.5)
        for worker in self.workers:
            if worker.sentinel in ended:
                worker.join(GRACE)
        return self._lost() or error

    def _hear(self, number: int) -> None:
        with suppress(EOFError, OSError):
            while self.pipes[number - 1].poll():
                report = self.pipes[number - 1].recv()
                if report is not None:
                    self.reports[number] = report

    def _lost(self) -> BaseException | None:
        """What ended another rank, the first one of several."""
        for number in range(1, self.count):
            self._hear(number)
        if self.reports:
            return min(self.reports.values(), key=lambda report: report[0])[1]
        for number, worker in enumerate(self.workers, start=1):
            if worker.exitcode:
                return UserError(
                    f"process {number + 1} of {self.count} was ended from outside (exit code {worker.exitcode}; out of "
                    "memory?): the same command goes on from the last checkpoint"
                )
        return None

    def _watch(self) -> None:
        """Interrupts this process where it does not notice that another one is gone."""
        while not self._over.wait(0.5):
            if any(worker.exitcode for worker in self.workers):
                if not self._over.wait(GRACE):
                    self._interrupted = True
                    interrupt_main()
                return


def _work(function: Callable, cfg: dict, pipe) -> None:
    """What a started rank does. An error is told before the others are left, which makes them fail, too."""
    warnings.simplefilter("ignore")
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        import torch  # noqa: F401

        pipe.send(None)
        with joined(cfg["trainer"], number, count):
            try:
                function(cfg)
            except Exception as error:
                with suppress(OSError):
                    pipe.send((time.time(), _portable(error)))
                raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
