"""What a search over settings searches, from Hydra's overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kga.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution

ORIGINAL = "utility_original"  # user attribute of a trial: utility of A_D on validation


@dataclass(frozen=True)
class Space:
    """What is searched. seeds: of each trial. distributions: by config key. fixed: overrides that all trials share."""

    seeds: tuple[str, ...]
    distributions: dict[str, BaseDistribution]
    fixed: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Space:
        """The space of Hydra's overrides, of which a later one replaces an earlier one of the same key."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

        parsed = OverridesParser.create().parse_overrides([*arguments])
        last = {override.get_key_element(): override for override in parsed}
        seeds = _seeds(last.pop("seed", None))
        swept = [override.input_line for override in last.values() if override.is_sweep_override()]
        fixed = [override.input_line for override in last.values() if not override.is_sweep_override()]
        if not swept:
            raise UserError("hparams: nothing is searched; give a key values or an interval, as method.alpha=1,3,10")
        distributions, _ = create_params_from_overrides(swept)
        return cls(seeds, distributions, tuple(fixed))

    def runs(self, params: Mapping) -> list[list[str]]:
        """The overrides of a trial's runs, one for each seed."""
        chosen = [f"{name}={written(params[name])}" for name in self.distributions]
        return [[*self.fixed, *chosen, f"seed={seed}"] for seed in self.seeds]

    def described(self) -> dict[str, str]:
        """The distributions, as text."""
        return {name: repr(distribution) for name, distribution in self.distributions.items()}


def _seeds(override: Override | None) -> tuple[str, ...]:
    """The seeds of the override ``seed=...``."""
    from kga.report.select import FIRST_SEED  # slow to import

    if override is None:
        seeds = ()
    elif override.is_sweep_override():
        seeds = tuple(override.sweep_string_iterator())
    else:
        seeds = (str(override.value()),)
    if not seeds or any(not text.isdigit() or int(text) < FIRST_SEED for text in seeds):
        raise UserError(
            f"seed={','.join(seeds)}: the trials of hparams have seeds of {FIRST_SEED} and above, as seed=100,101 "
            "(smaller ones are for results, which choose nothing)"
        )
    return seeds


def written(value: object) -> str:
    """A value as the command line writes it."""
    return "null" if value is None else str(value)
