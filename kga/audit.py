"""The audit of a run: who is attacked, with which shadow models, and what each attack finds."""

import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from kga import config
from kga.assess import limited, with_floor
from kga.attacks.base import Attack
from kga.attacks.evidence import FORGET, NONMEMBER, RETAIN, Evidence
from kga.attacks.probe import Probe
from kga.attacks.shadows import Audited, audited, duration, inclusion, spread, train_all, worlds
from kga.console import note, stage
from kga.errors import UserError
from kga.methods.base import Method
from kga.metrics.membership import auc_interval, membership_figures, privleak
from kga.study import Study, Trained

FEWEST = 10  # members, and non-members, that an attack needs
REFERENCE = 99  # number of the retrained model that attacks compare with: no noise floor reaches it
CHECKPOINT = 5  # the weights that a fit in progress takes on disk: weights and optimiser, two checkpoints


def build_attacks(cfg: Mapping) -> dict[str, Attack | Probe]:
    """The attacks of the config by name; UserError for their options."""
    return {
        name: config.build({f"attack.{name}": part}, f"attack.{name}") for name, part in config.attacked(cfg).items()
    }


class Audit:
    """All attacks of one run.

    cfg: the resolved config. chosen: its attacks (``build_attacks``). make_method: makes the audited method, anew for every
    shadow model.
    """

    def __init__(
        self, study: Study, cfg: Mapping, chosen: Mapping[str, Attack | Probe], make_method: Callable[[], Method]
    ) -> None:
        options, evaluation = cfg["attack"], cfg["evaluation"]
        self.study, self.shadows, self.bootstrap = study, options["shadows"], options["bootstrap"]
        self.make_method, self.settings, self.batch_size = make_method, cfg["method"], evaluation["batch_size"]
        self.retrains, self.group = cfg["reference"] == "retrain", cfg["data"]["group"]
        self.by_difficulty = cfg["choices"]["forget"] in ("easy", "hard")
        self.attacks = {name: attack for name, attack in chosen.items() if isinstance(attack, Attack)}
        self.probes = {name: probe for name, probe in chosen.items() if isinstance(probe, Probe)}
        self.retain = limited(study.splits[RETAIN], evaluation["retain_limit"], study.seed)
        self.who: Audited = audited(study.splits, self.retain, study.seed)
        self.inside = inclusion(self.who.role, self.who.units, self.shadows, study.seed)
        needed = any(attack.shadows for attack in self.attacks.values())
        self.worlds = worlds(study, self.who, self.inside) if needed else []
        self.seconds = 0.0

    def __bool__(self) -> bool:
        return bool(self.attacks or self.probes)

    @property
    def sets(self) -> dict:
        """What is evaluated besides a run's usual sets."""
        names = (NONMEMBER, "population") if self.needs_population else (NONMEMBER,) if self.attacks else ()
        return {name: self.who.sets[name] for name in names}

    def require(self) -> None:
        """UserError for attacks that this study can't carry, before anything is trained."""
        for probe in self.probes.values():
            probe.require(self.study)
        if not self.attacks:
            return
        for name, attack in self.attacks.items():
            attack.require(name, self.study.codec)
            if attack.insists and not self.retrains:
                raise UserError(
                    f"attack.{name} asks for a reference model, which is one more retrained model, and reference=none for none"
                )
        sizes = {name: len(split) for name, split in self.who.sets.items()}
        holdout = len(self.study.splits["holdout"])
        if sizes[FORGET] < FEWEST:
            raise UserError(
                f"attack={'|'.join(self.attacks)} needs a forget set of {FEWEST} examples or more, this one has "
                f"{sizes[FORGET]}: choose a larger group or forget.size, or attack=none"
            )
        if sizes[NONMEMBER] < FEWEST:
            given = ": with original.path, give more unseen examples by new.path" if self.study.given else ""
            raise UserError(
                f"attack={'|'.join(self.attacks)} needs {FEWEST} or more unseen examples like the forget set; the holdout of "
                f"{holdout} has {sizes[NONMEMBER]}{given or ': raise data.reserve, lower new.size, or attack=none'}"
            )
        for name, attack in self.attacks.items():
            if sizes["population"] < attack.population:
                raise UserError(
                    f"attack={name} needs {attack.population} unseen examples beside the audited ones, the holdout has "
                    f"{sizes['population']} left: raise data.reserve, or leave {name} out"
                )

        self._tell_of_likeness()

    def _tell_of_likeness(self) -> None:
        """Notes what makes D_f and non-members unlike each other, whatever a model saw."""
        splits, forget = self.study.splits, self.study.splits[FORGET]
        for column, what in (("input_hash", "their text"), (self.group, "their group")):
            if column in splits.tables["train"].column_names and not (column == self.group and splits.grouped_by):
                kept = set(splits.strings(splits[RETAIN], column)) - {"", None}
                shared = sum(value in kept for value in splits.strings(forget, column))
                if shared:
                    note(
                        f"{shared} of the {len(forget)} forgotten examples share {what} with one that stays, non-members with "
                        "none: a reason for AUCs above 0.5 that A_R has as well"
                    )
        if self.by_difficulty:
            note("the forget set was chosen by A_D's own losses: part of what attacks find in A_D is that choice")

    # Shadow models ---------------------------------------------------------------------------------------------

    @property
    def needs_population(self) -> bool:
        return any(attack.population for attack in self.attacks.values())

    @property
    def needs_unlearned(self) -> bool:
        return any(attack.unlearned for attack in self.attacks.values())

    def require_disk(self) -> None:
        """UserError if the shadow models that are to be trained don't fit on the disk; A_D says how large they are."""
        original = self.study.original()
        size = original.bytes or sum(file.stat().st_size for file in original.folder.rglob("*") if file.is_file())
        missing = sum(not world.has_original() for world in self.worlds)
        made = 1 + len(self.make_method().helpers()) if self.needs_unlearned else 0  # in each world, at most
        needed = size * (missing + CHECKPOINT * bool(missing) + len(self.worlds) * made)
        free = shutil.disk_usage(self.study.store.root).free
        if needed > free:
            raise UserError(
                f"attack.shadows={self.shadows} needs about {needed / 2**30:.1f} GiB in {self.study.store.root}, "
                f"{free / 2**30:.1f} are free: lower it, or choose another folder with store=DIR"
            )

    def _train(self, request_seconds: float) -> None:
        """Trains the shadow models; tells about all that will take time before any of it starts."""
        if not self.worlds:
            return
        if self.study.given:
            note("shadow models are trained by optim.* and model.*: attacks are as strong as those fit the given model")
        then = f"; then {len(self.worlds)} requests, one in each, of about {duration(request_seconds)}"
        self.seconds += train_all(
            self.worlds, "shadow models, shared by all methods", self.study.original(), then * self.needs_unlearned
        )

    def _unlearned(self) -> list[pd.DataFrame]:
        """Signals of every shadow model after the method unlearned in it."""
        found = {}
        for world in spread(self.worlds):
            made = world.forget(self.make_method(), self.settings)
            self.seconds += made.unlearned.seconds + sum(helper.seconds for helper in made.helpers.values())
            found[id(world)] = self._signals(made.unlearned)
        return [found[id(world)] for world in self.worlds]

    # What is found ---------------------------------------------------------------------------------------------

    def run(
        self, trained: Mapping[str, Trained], table: pd.DataFrame, request_seconds: float
    ) -> tuple[dict, pd.DataFrame]:
        """(sections of result.json, scores): scores has a row for each audited example and model.

        trained: the audited models by name; table: their signals on every evaluated set (see ``kga.assess``).
        """
        sections: dict = {"membership": {}}
        scores = pd.DataFrame({"row": [], "model": [], "split": []})
        if not self:
            return sections, scores
        stage("Attack", ", ".join([*self.attacks, *self.probes]))
        self._train(request_seconds)
        evidence = self._evidence(table) if self.attacks else None
        started = time.monotonic()
        if evidence is not None:
            found = {model: self._scores(evidence, model) for model in evidence.targets}
            sections["membership"] = _without_floors_interval(with_floor(self._figures(found)))
            scores = pd.concat([self._named(values, model, evidence) for model, values in found.items()])
        models = {name: model for name, model in trained.items() if not name.startswith("noise_floor")}
        sets = {**self.study.splits.sets, **self.who.sets, RETAIN: self.retain}
        for name, probe in self.probes.items():
            try:
                sections[probe.section] = probe.run(self.study, models, sets)
            except UserError as error:  # a model that diverges when it is trained on; the rest of the run stands
                note(f"attack={name} found nothing: {error}")
        self.seconds += time.monotonic() - started
        return sections, scores

    def _evidence(self, table: pd.DataFrame) -> Evidence:
        targets = {
            model: _rows(part, self.who.targets.rows) for model, part in _by_model(table, (FORGET, NONMEMBER, RETAIN))
        }
        population = self.who.sets["population"]
        beside = {model: _rows(part, population.rows) for model, part in _by_model(table, ("population",))}
        originals = [world.original() for world in self.worlds]
        return Evidence(
            self.who.role,
            targets,
            beside,
            inside=self.inside if self.worlds else None,
            shadows=[self._signals(model) for model in originals],
            shadow_population=[self.study.signals(model, population, self.batch_size) for model in originals]
            if self.needs_population
            else (),
            unlearned=self._unlearned() if self.needs_unlearned else (),
            reference=self._reference(),
            compressed=self._compressed(),
            several=self.study.codec.several_positions,
        )

    def _reference(self) -> pd.DataFrame | None:
        """Signals of a model that was trained as A_R was and is none of the audited ones."""
        if not any(attack.reference for attack in self.attacks.values()):
            return None
        if not self.retrains:
            note("reference=none: the attack with a reference model, one more retrained model, is left out")
            return None
        model = self.study.retrained(REFERENCE)
        self.seconds += model.seconds
        return self._signals(model)

    def _signals(self, model: Trained) -> pd.DataFrame:
        return self.study.signals(model, self.who.targets, self.batch_size)

    def _compressed(self) -> np.ndarray | None:
        if not self.study.codec.text_metrics():
            return None
        texts = self.study.splits.strings(self.who.targets, self.study.task.fields[-1])
        return np.array([len(zlib.compress(text.encode())) for text in texts])

    def _scores(self, evidence: Evidence, model: str) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(values, float)
            for attack in self.attacks.values()
            for name, values in attack.scores(evidence, model).items()
        }

    @property
    def _alike(self) -> bool:
        """Whether the non-members are like D_r, too: not where they were chosen to be like a D_f that is unlike it."""
        return len(self.study.splits[NONMEMBER]) == len(self.study.splits["holdout"])

    def _figures(self, found: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
        """{model: {attack: figures}}: D_f against non-members, and beside it, if they are alike, the sample of D_r."""
        role = self.who.role
        figures: dict = {}
        for model, scores in found.items():
            for name, values in scores.items():
                outside = values[role == NONMEMBER]
                row = membership_figures(values[role == FORGET], outside, self.study.seed, self.bootstrap)
                staying = values[role == RETAIN]
                if self._alike and len(staying) >= FEWEST and not np.isnan(staying).any():
                    interval = auc_interval(staying, outside, self.study.seed, self.bootstrap)
                    row |= dict(zip(("retain_auc", "retain_auc_low", "retain_auc_high"), interval, strict=True))
                figures.setdefault(model, {})[name] = row
        for model in figures.keys() - {"retrain"} if "retrain" in figures else ():
            for name, row in figures[model].items():
                row["privleak"] = privleak(row["auc"], figures["retrain"][name]["auc"])
        return figures

    def _named(self, scores: Mapping[str, np.ndarray], model: str, evidence: Evidence) -> pd.DataFrame:
        columns = {f"score_{name}": values for name, values in scores.items()}
        frame = pd.DataFrame({"row": self.who.targets.rows, "model": model, "split": self.who.role} | columns)
        if evidence.shadows:
            frame["memorisation"] = memorisation(evidence.shadows, evidence.inside)
        return frame


def _without_floors_interval(figures: dict) -> dict:
    """The floor is a mean over models, and a mean of bounds is no interval."""
    bounds = ("auc_low", "auc_high", "retain_auc_low", "retain_auc_high")
    floor = {
        attack: {name: value for name, value in row.items() if name not in bounds}
        for attack, row in figures.get("noise_floor", {}).items()
    }
    return figures | ({"noise_floor": floor} if floor else {})


def memorisation(shadows: Sequence[pd.DataFrame], inside: np.ndarray) -> np.ndarray:
    """[T] mean loss of the shadow models that were not trained on an example minus that of those that were, in nats
    (Feldman and Zhang 2020, by loss)."""
    losses = np.stack([table["loss"].to_numpy() for table in shadows])
    mean = [np.where(mask, losses, 0.0).sum(0) / np.maximum(mask.sum(0), 1) for mask in (~inside, inside)]
    return mean[0] - mean[1]


def _by_model(table: pd.DataFrame, splits: Sequence[str]):
    return table[table["split"].isin(splits)].groupby("model", sort=False)


def _rows(part: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    return part.set_index("row").loc[rows].reset_index(drop=True)
