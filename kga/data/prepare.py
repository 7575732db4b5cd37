"""`kga-data`: fetch a data set from the hub once and keep it as a data folder, for machines without network."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kga.errors import UserError, nearest
from kga.paths import config_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from kga.data.corpus import Corpus

_LOADER = "kga.data.hub.load"
_NOT_ARGUMENTS = ("_target_", "limit", "reserve", "dirty")  # the last three: what an experiment does with any data set


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 with one line on stderr after a user's mistake."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.list and not (arguments.name and arguments.to):
        parser.error("NAME and --to DIR are needed (or --list)")
    try:
        configs = _hub_configs()
        if arguments.list:
            print("\n".join(f"{name:<16} {config.repo}" for name, config in configs.items()))
        else:
            prepare(arguments.name, arguments.to, configs, arguments.options)
    except UserError as error:
        print(f"kga-data: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(name: str, to: Path, configs: dict[str, DictConfig], options: Sequence[str] = ()) -> None:
    """Fetch data set `name` and write it to the new folder `to`, which appears only when it is complete.

    Args:
        options: `data.KEY=VALUE`, to read it otherwise than its config says.

    Raises:
        UserError: no such data set or key, the folder is there already, or the hub does not give the data.
    """
    if name not in configs:
        raise UserError(f"no hub data set {name!r}: choose one of {', '.join(configs)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"--to {to}: exists already: name a new folder, or an empty one")
    arguments = _arguments(configs[name], options)
    from kga.data import hub

    corpus = hub.load(**arguments)
    write_folder(corpus, to)
    sizes = ", ".join(f"{len(table):,} {split}" for split, table in corpus.splits.items())
    print("\n".join((f"{to}: {sizes} examples", *corpus.notes, f"Use it with data=folder data.path={to}")))


def write_folder(corpus: Corpus, folder: Path) -> None:
    """Write the splits as Parquet, ids included, aside first and then by one rename."""
    from kga.data.corpus import MADE_COLUMNS

    folder = folder.absolute()
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
        for split, table in corpus.splits.items():
            table.remove_columns(MADE_COLUMNS).to_parquet(aside / f"{split}.parquet")
        aside.replace(folder)
    except OSError as error:
        raise UserError(f"--to {folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _arguments(config: DictConfig, options: Sequence[str]) -> dict[str, Any]:
    """What the loader is called with: the config, changed by the options."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(config, resolve=True)
    places = {}  # what an option may name -> where that lies
    for key in values.keys() - set(_NOT_ARGUMENTS):
        if isinstance(values[key], dict):
            places |= {f"data.{key}.{name}": (values[key], name) for name in values[key]}
        else:
            places[f"data.{key}"] = (values, key)
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in places:
            raise UserError(f"{option}: no option of this data set, as data.KEY=VALUE: {nearest(key, places)}")
        place, name = places[key]
        place[name] = None if value == "null" else value
    return {key: value for key, value in values.items() if key not in _NOT_ARGUMENTS}


def _hub_configs() -> dict[str, DictConfig]:
    """The data configs that come from the hub, by name, as they are where the config has nothing but the data."""
    from omegaconf import OmegaConf

    found = {file.stem: OmegaConf.load(file) for file in sorted((config_dir() / "data").glob("*.yaml"))}
    from_hub = {name: config for name, config in found.items() if config.get("_target_") == _LOADER}
    return {name: OmegaConf.create({"data": config}).data for name, config in from_hub.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kga-data", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="data set, by the name of its config (see --list)")
    parser.add_argument(
        "options", nargs="*", metavar="data.KEY=VALUE", help="read it otherwise than its config says, as in `kga`"
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="new folder for train, validation and test.parquet")
    parser.add_argument("--list", action="store_true", help="list the hub data sets and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
