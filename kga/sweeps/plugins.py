"""kga's own Hydra plugins, under names that Hydra accepts: ``hydra_plugins.kga_MODULE.CLASS`` is ``kga.sweeps.MODULE.CLASS``."""

from importlib import import_module

PLUGINS = ("launchers.OneByOne", "launchers.Local", "launchers.Slurm", "hparams.Search")


class Later:
    """A class of kga's by its name; Hydra imports it when it makes the first object, as ``--help`` must be quick."""

    def __init__(self, name: str) -> None:
        module, _, self.__qualname__ = name.rpartition(".")
        self.__module__ = f"{__package__}.{module}"

    def __call__(self, **options: object) -> object:
        return getattr(import_module(self.__module__), self.__qualname__)(**options)


def register() -> None:
    """Tells Hydra of them, in each process that composes a config.

    Hydra makes only plugins whose name lies in ``hydra_plugins``, and imports all that it finds there at every start.
    """
    from hydra.core.plugins import Plugins

    known = Plugins.instance().class_name_to_class
    for name in PLUGINS:
        known[f"hydra_plugins.kga_{name}"] = Later(name)
