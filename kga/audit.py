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
from kga.attacks.shadows import Audited, audited, inclusion, spread, worlds
from kga.console import note, stage
from kga.errors import UserError
from kga.methods.base import Method
from kga.metrics.membership import auc_interval, membership_figures, privleak
from kga.study import Study, Trained

FEWEST = 10  # members, and non-members, that an attack needs
REFERENCE = 99  # number of the retrained model that attacks compare with: no noise floor reaches it
CHECKPOINT = 5  # the weights that a fit in progress takes on disk: weights and optimiser, two checkpoints


class Audit:
    """All attacks of one run.

    cfg: the resolved config. make_method: makes the audited method, anew for every shadow model.
    """

    def __init__(self, study: Study, cfg: Mapping, make_method: Callable[[], Method]) -> None:
        options, evaluation = cfg["attack"], cfg["evaluation"]
        self.study, self.shadows, self.bootstrap = study, options["shadows"], options["bootstrap"]
        self.make_method, self.settings, self.batch_size = make_method, cfg["method"], evaluation["batch_size"]
        self.retrains = cfg["reference"] == "retrain"
        chosen = {
            name: config.build({f"attack.{name}": part}, f"attack.{name}")
            for name, part in config.attacked(cfg).items()
        }
        self.attacks = {name: attack for name, attack in chosen.items() if isinstance(attack, Attack)}
        self.probes = {name: probe for name, probe in chosen.items() if isinstance(probe, Probe)}
        self.who: Audited = audited(
            study.splits, limited(study.splits[RETAIN], evaluation["retain_limit"], study.seed), study.seed
        )
        self.inside = inclusion(self.who.role, self.shadows, study.seed)
        needed = any(attack.shadows for attack in self.attacks.values())
        self.worlds = worlds(study, self.who, self.inside) if needed else []
        self.seconds = 0.0

    def __bool__(self) -> bool:
        return bool(self.attacks or self.probes)

    @property
    def sets(self) -> dict:
        """What is evaluated besides a run's usual sets."""
        return {name: self.who.sets[name] for name in (NONMEMBER, "population") if self.attacks}

    def require(self) -> None:
        """UserError for attacks that this study can't carry, before anything is trained."""
        for probe in self.probes.values():
            probe.require(self.study)
        if not self.attacks:
            return
        for name, attack in self.attacks.items():
            attack.require(name, self.study.codec)
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

    # Shadow models ---------------------------------------------------------------------------------------------

    @property
    def needs_unlearned(self) -> bool:
        return any(attack.unlearned for attack in self.attacks.values())

    def require_disk(self) -> None:
        """UserError if the shadow models that are to be trained don't fit on the disk; A_D says how large they are."""
        self.missing = sum(not world.has_original() for world in self.worlds)
        original = self.study.original()
        size = original.bytes or sum(file.stat().st_size for file in original.folder.rglob("*") if file.is_file())
        needed = size * (self.missing + CHECKPOINT * bool(self.missing) + len(self.worlds) * self.needs_unlearned)
        free = shutil.disk_usage(self.study.store.root).free
        if needed > free:
            raise UserError(
                f"attack.shadows={self.shadows} needs about {needed / 2**30:.1f} GiB in {self.study.store.root}, "
                f"{free / 2**30:.1f} are free: lower it, or choose another folder with store=DIR"
            )

    def _train(self) -> None:
        """Trains the shadow models that are not in the store; says before how many and about how long."""
        if not self.worlds:
            return
        missing, original = self.missing, self.study.original()
        about = f" in about {_duration(missing * original.seconds)}" if missing and original.seconds else ""
        note(
            f"{self.shadows} shadow models, shared by all methods: {self.shadows - missing} in the store, {missing} to train{about}"
        )
        for world in spread(self.worlds):
            self.seconds += world.original().seconds

    def _unlearned(self, one: float) -> list[pd.DataFrame]:
        """Signals of every shadow model after the method unlearned in it. one: seconds that one request took."""
        note(
            f"the method unlearns in {len(self.worlds)} shadow models as well: about {_duration(len(self.worlds) * one)}"
        )
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
        self._train()
        evidence = self._evidence(table, request_seconds) if self.attacks else None
        started = time.monotonic()
        if evidence is not None:
            found = {model: self._scores(evidence, model) for model in evidence.targets}
            sections["membership"] = with_floor(self._figures(found))
            scores = pd.concat([self._named(values, model, evidence) for model, values in found.items()])
        models = {name: model for name, model in trained.items() if not name.startswith("noise_floor")}
        for probe in self.probes.values():
            sections[probe.section] = probe.run(self.study, models, {**self.study.splits.sets, **self.who.sets})
        self.seconds += time.monotonic() - started
        return sections, scores

    def _evidence(self, table: pd.DataFrame, request_seconds: float) -> Evidence:
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
            shadow_population=[self.study.signals(model, population, self.batch_size) for model in originals],
            unlearned=self._unlearned(request_seconds) if self.needs_unlearned else (),
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

    def _figures(self, found: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
        """{model: {attack: figures}}: D_f against non-members, and beside it the sample of D_r against them."""
        role = self.who.role
        figures: dict = {}
        for model, scores in found.items():
            for name, values in scores.items():
                outside = values[role == NONMEMBER]
                row = membership_figures(values[role == FORGET], outside, self.study.seed, self.bootstrap)
                staying = values[role == RETAIN]
                if len(staying) >= FEWEST and not np.isnan(staying).any():
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


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
