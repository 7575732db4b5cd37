"""From the hardware of the config (``trainer.*``) to the arguments of Lightning's Trainer, for one process or several."""

from collections.abc import Iterable, Mapping

from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from kga import ranks
from kga.models.layers import blocks

# Keys that Lightning does not know, or that only fits have use for.
OWN = ("checkpoint_minutes", "profiler", "compile", "frozen_dtype")


def one_device(hardware: Mapping) -> dict:
    """Arguments of a Trainer for work that a rank does without the others."""
    arguments = {name: value for name, value in hardware.items() if name not in (*OWN, "strategy", "num_nodes")}
    if "strategy" in hardware:
        device = [ranks.local_rank()] if ranks.on_gpu(hardware) else 1
        arguments["devices"] = device
    return arguments


def all_devices(hardware: Mapping, fit: bool = False) -> dict:
    """Arguments of a Trainer for work that all ranks do at once. fit: models are trained, not only run."""
    if ranks.world_size() == 1:
        return one_device(hardware)
    sharded = fit and hardware["strategy"] == "fsdp"
    arguments = {name: value for name, value in hardware.items() if name not in OWN}
    return arguments | {"strategy": Sharded() if sharded else Replicas(), "plugins": [Joined()]}


class Joined(LightningEnvironment):
    """Processes that have joined each other already: Lightning starts none."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def global_rank(self) -> int:
        return ranks.rank()

    def world_size(self) -> int:
        return ranks.world_size()

    def local_rank(self) -> int:
        return ranks.local_rank()

    def teardown(self) -> None:
        """Leaves the environment to who set it."""


class Replicas(DDPStrategy):
    """A whole model on every rank. The ranks' gradients are added up once per update, by whoever computes them.

    Lightning's own wrapper would do so at every backward pass, of which an update has several, and stumbles over
    parameters that one of them does not reach.
    """

    def configure_ddp(self) -> None:
        pass

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        ranks.add_gradients(parameters)


class Sharded(ModelParallelStrategy):
    """A model in parts, one on every rank (FSDP): each block is put together while it is used."""

    def __init__(self) -> None:
        super().__init__(
            data_parallel_size=ranks.world_size(), tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def shard(self, model: nn.Module) -> None:
        """Spreads the model's parameters over the ranks, in place."""
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        model.to(self.root_device)
        for _, block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)  # what is outside of blocks stays together from the forward to the backward pass
