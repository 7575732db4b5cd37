"""Knowledge gap alignment (Wang et al., ACL 2023, arXiv 2305.06535)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from kga.console import note
from kga.data.batching import Draws
from kga.errors import UserError, one_of
from kga.methods.base import Helper, Method
from kga.methods.caches import Rows, parsed, passes, top_classes
from kga.methods.pairing import label_partners, ranked_partners
from kga.objective import Batch, Step
from kga.optim import Optim
from kga.predictions import Predictions, divergence
from kga.tasks.base import TaskModule

UNITS = {
    "token_mean": "position",
    "legacy_mean": "position",
    "seq_mean": "example",
    "seq_sum": "example",
    "legacy_batchmean_padded": "example",
}


CHOICES = {
    "kl_forget": ("teacher_student", "student_teacher", "js"),
    "kl_new": ("teacher_student", "student_teacher", "js"),
    "kl_retain": ("teacher_student", "student_teacher", "js"),
    "reduction": tuple(UNITS),
    "view": ("scored", "released"),
    "gap_level": ("dataset_mean", "batch", "example", "token"),
    "pairing": ("random", "fixed", "length", "label"),
    "gap_penalty": ("abs", "squared", "huber", "hinge"),
    "anchor": ("forget", "retain"),
}


@dataclass
class Stop:
    """When to stop before the updates run out: the alignment error \\|a - g\\| falls to a bound.

    criterion: "none", "abs" (bound = value), "portion_of_first" (value x the error of update 1) or "sigma" (value x g).
    every: checked at updates divisible by it. smoothing: "batch" (this update's a and g), "ema" (moving averages with
    ``decay``) or "full" (a over all of D_f, in eval mode, at every check).
    min_forget_epochs: passes over D_f that must be done first.
    """

    criterion: str = "none"
    value: float = 0.0
    every: int = 1
    smoothing: str = "ema"
    decay: float = 0.9
    min_forget_epochs: int = 0


@dataclass
class Helpers:
    """How A_f and A_n are trained, see ``kga.methods.base.Helper``. They decide the result."""

    start: str = "original"
    retain_share: float = 0.0
    seed: int = 0
    dedupe: bool = True
    optim: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Gap:
    """Gaps of some examples: [B] summed over the positions of each, [B] how many those are, and the number of classes."""

    total: Tensor
    count: Tensor
    classes: int


class KGA(Method):
    """L = gap_weight * penalty(a - g) + alpha * r, where

    a = gap(A_f, A*) on D_f, g = gap(A_n, A_D) on D_n, r = gap(A_D, A*) on D_r.

    Needs A_D, A_f (trained on D_f), A_n (trained on D_n), all frozen; D_f, D_n, D_r. Cost per update with everything
    cached: 3 forwards of (retain_batches x B_r + B_f).

    alpha: weight of the retain term. gap_weight: weight of the gap term (0: the retain term alone).
    kl_forget, kl_new, kl_retain: "teacher_student", "student_teacher" or "js". On D_n the helper A_n is the teacher and
        A_D stands where A* stands on D_f, so equal orders make a and g commensurable.
    reduction: "token_mean", "seq_mean", "seq_sum"; "legacy_mean" (divided by the number of classes, too) and
        "legacy_batchmean_padded" (all positions of the released view, divided by the examples).
    view: "scored", or "released": padded positions are counted and multi-label models are compared by a softmax.
    gap_level: what the penalty is taken of: "dataset_mean" (batch mean of a against g over all of D_n), "batch" (against g
        of the drawn batch), "example" or "token" (each against its paired example of D_n).
    pairing: which batch of D_n meets a batch of D_f: "random", "fixed", "length" or "label" (matched).
    gap_penalty: "abs", "squared", "huber" or "hinge" (only a < g is penalised).
    retain_batches: batches of D_r per update (K). retain_sample: share of D_r they come from; retain_redraw: drawn anew
        for every pass. student_dropout: whether A*'s dropout is on. anchor: set whose pass is an epoch.
    cache: how predictions of frozen models are kept (see ``Method``). Of D_n one gap per example is all that is kept.

    The sign of a - g alone gives the direction (the size of the mismatch never scales the step): a < g pushes A* away
    from A_f. With a > g at the start the loss would pull A* towards the model that memorised D_f: that is warned of.
    """

    teachers = {"original": ("new", "retain"), "forget_helper": ("forget",), "new_helper": ("new",)}  # noqa: RUF012
    splits = ("forget", "new", "retain")

    def __init__(
        self,
        alpha: float = 1.0,
        gap_weight: float = 1.0,
        kl_forget: str = "teacher_student",
        kl_new: str = "teacher_student",
        kl_retain: str = "teacher_student",
        reduction: str = "token_mean",
        view: str = "scored",
        gap_level: str = "dataset_mean",
        pairing: str = "random",
        gap_penalty: str = "abs",
        retain_batches: int = 5,
        retain_sample: float = 1.0,
        retain_redraw: bool = False,
        student_dropout: bool = True,
        anchor: str = "forget",
        cache: str = "auto",
        stop: Stop | Mapping | None = None,
        helpers: Helpers | Mapping | None = None,
        optim: Optim | Mapping | None = None,
    ) -> None:
        self.kl_forget, self.kl_new, self.kl_retain = kl_forget, kl_new, kl_retain
        super().__init__(optim, cache)
        self.alpha, self.gap_weight = alpha, gap_weight
        self.reduction, self.view, self.gap_level = reduction, view, gap_level
        self.pairing, self.gap_penalty = pairing, gap_penalty
        self.retain_batches, self.retain_sample, self.retain_redraw = retain_batches, retain_sample, retain_redraw
        self.student_dropout, self.anchor = student_dropout, anchor
        self.stop = stop if isinstance(stop, Stop) else Stop(**(stop or {}))
        self.helper_options = helpers if isinstance(helpers, Helpers) else Helpers(**(helpers or {}))
        for key, known in CHOICES.items():
            one_of(f"method.{key}", getattr(self, key), known)
        one_of("method.stop.criterion", self.stop.criterion, ("none", "abs", "portion_of_first", "sigma"))
        one_of("method.stop.smoothing", self.stop.smoothing, ("batch", "ema", "full"))
        one_of("method.helpers.start", self.helper_options.start, ("pretrained", "scratch", "original"))
        if retain_batches < 1 or not 0 < retain_sample <= 1 or self.stop.every < 1:
            raise UserError(
                "method: retain_batches and stop.every are at least 1, retain_sample is above 0 and at most 1"
            )
        self.units = {"forget": _forget_unit(gap_level, reduction), "new": UNITS[reduction], "retain": UNITS[reduction]}
        self.nonlinear = ("forget", "new") if gap_level in ("dataset_mean", "batch") else ()
        self.g, self.a0, self.first_error = None, None, None
        self.average: dict[str, float] = {}
        self._new_gaps: tuple[Rows, Mapping[str, Tensor]] | None = None

    # Declarations ----------------------------------------------------------------------------------------------

    def helpers(self) -> dict[str, Helper]:
        options = self.helper_options
        shared = dict(start=options.start, retain_share=options.retain_share, seed=options.seed, dedupe=options.dedupe)
        return {
            "forget_helper": Helper("forget", **shared, optim=options.optim),
            "new_helper": Helper("new", **shared, optim=options.optim),
        }

    def draws(self, update: int) -> Draws:
        first = ("forget",) if self.gap_level == "dataset_mean" else ("forget", "new")
        return [first] + [("retain",)] * self.retain_batches

    def stream_options(self) -> dict:
        return {
            "share": {"retain": self.retain_sample},
            "redraw": self.retain_redraw,
            "partners": self._partners(),
            "aligned": self.gap_level in ("example", "token"),
        }

    def _partners(self) -> dict:
        forget, new = self.sets["forget"], self.sets["new"]
        if self.pairing == "random" or self.gap_level == "dataset_mean":
            return {}
        if self.pairing == "label":
            return {("forget", "new"): label_partners(forget.column("labels"), new.column("labels"))}
        keys = (forget.lengths(), new.lengths()) if self.pairing == "length" else (range(len(forget)), range(len(new)))
        return {("forget", "new"): ranked_partners(*keys)}

    # Before the first update -----------------------------------------------------------------------------------

    @property
    def top_classes(self) -> bool:
        return {self.kl_forget, self.kl_new, self.kl_retain} == {"teacher_student"}

    def prepare(self, module: TaskModule, updates: int) -> None:
        module.dropout = self.student_dropout
        super().prepare(module, updates)
        if self.g is None:  # nothing was kept
            self._g_from(self._gaps_of_new())
        if self.a0 is None:
            self.a0 = self.full_gap(module)
            if self.a0 > self.g and self.gap_weight:
                note(
                    f"a0 = {self.a0:.4f} > g = {self.g:.4f}: A* is already further from A_f than A_D is from A_n; the gap "
                    "term will pull it towards A_f at first. Check the helpers (method.helpers.*)."
                )

    def fill_caches(self, module: TaskModule) -> None:
        k = parsed(self.cache).k
        recipe = {"what": "gap", "kl": self.kl_new, "view": self.view, **({"k": k} if k else {})}
        new = self.sets["new"]
        tensors = self.keep(recipe, ("original", "new_helper"), new, lambda: self._gaps_of_new(k))
        self._g_from(tensors)
        self._new_gaps = Rows(new), tensors
        if k:
            lost = tensors["whole"].sum() - tensors["total"].sum()
            self.kept["topk_error_new"] = float(lost / tensors["count"].sum())
        self.frozen["new_helper"].drop_model()
        self.keep_predictions("original", ("retain",), module)
        self.keep_predictions("forget_helper", ("forget",), module)

    @torch.no_grad()
    def _gaps_of_new(self, k: int = 0) -> dict[str, Tensor]:
        """The gap of A_D and A_n for each example of D_n: summed over its positions, and how many those are.

        k: of A_n only the k most probable classes; "whole" is then the gap of all.
        """
        new = self.sets["new"]
        total, whole = (torch.zeros(len(new), dtype=torch.float64) for _ in range(2))
        count = torch.zeros(len(new), dtype=torch.int64)
        for positions, batch in passes(new, self.frozen["original"].device):
            gap = self._live_gap(batch, k)
            where = torch.from_numpy(positions)
            total[where], count[where] = gap.total.double().cpu(), gap.count.cpu()
            if k:
                whole[where] = self._live_gap(batch).total.double().cpu()
        found = {"total": total, "count": count, "classes": torch.tensor(gap.classes)}
        return found | ({"whole": whole} if k else {})

    def _g_from(self, tensors: Mapping[str, Tensor]) -> None:
        gap = Gap(tensors["total"], tensors["count"], int(tensors["classes"]))
        units = gap.count.sum() if UNITS[self.reduction] == "position" else len(gap.count)
        self.g = float(self._reduced(gap) / units)

    @torch.no_grad()
    def full_gap(self, module: TaskModule) -> float:
        """a over all of D_f, the student in eval mode."""
        training, total, units = module.model.training, 0.0, 0
        module.model.eval()
        for _, batch in passes(self.sets["forget"], module.device):
            values, predictions = self._forget_gap(module, batch)
            total += float(self._sum(values, predictions))
            units += len(predictions.targets) if UNITS[self.reduction] == "position" else predictions.size
        module.model.train(training)
        return total / units

    # The loss --------------------------------------------------------------------------------------------------

    def terms(self, module: TaskModule, step: Step) -> dict[str, Tensor]:
        if "retain" in step:
            batch = step["retain"]
            student = module.predict(batch, self.view)
            teacher = self.frozen["original"].predict(batch, self.view, "retain")
            return {"retain": self._sum(divergence(self.kl_retain, teacher, student), student)}
        new = (
            self._new_gap(step["new"]) if "new" in step else None
        )  # micro-batches that the smaller batch does not fill
        if self.gap_level in ("example", "token"):
            return self._paired_terms(*self._forget_gap(module, step["forget"]), self._per_example(new))
        found = {"forget": self._sum(*self._forget_gap(module, step["forget"]))} if "forget" in step else {}
        return found if new is None else found | {"new": self._reduced(new)}

    def counts(self, module: TaskModule, step: Step) -> dict[str, int]:
        counts = super().counts(module, step)
        if self.gap_level in ("example", "token") and "forget" in step:
            counts |= dict.fromkeys(("a", "g"), module.count(step["forget"], "example", self.view))
        return counts

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        gap = means["forget"]
        if self.gap_level in ("dataset_mean", "batch"):
            target = torch.as_tensor(self.g) if self.gap_level == "dataset_mean" else means["new"]
            gap = self._penalty(gap - target)
        return self.gap_weight * gap + self.alpha * means.get("retain", torch.zeros(()))

    def _forget_gap(self, module: TaskModule, batch: Batch) -> tuple[Tensor, Predictions]:
        student = module.predict(batch, self.view)
        teacher = self.frozen["forget_helper"].predict(batch, self.view, "forget")
        return divergence(self.kl_forget, teacher, student), student

    def _new_gap(self, batch: Batch) -> "Gap":
        """The gaps of a batch of D_n, which no update changes: looked up where they are kept."""
        if self._new_gaps is None:
            return self._live_gap(batch)
        rows, tensors = self._new_gaps
        slots, device = rows.slots(batch), batch["index"].device
        total, count = (tensors[name][slots].to(device) for name in ("total", "count"))
        return Gap(total.float(), count, int(tensors["classes"]))

    def _live_gap(self, batch: Batch, k: int = 0) -> "Gap":
        """The same from A_D and A_n. k: of A_n only the k most probable classes, as on D_f where that is all that is kept."""
        original = self.frozen["original"].predict(batch, self.view)
        helper = self.frozen["new_helper"].predict(batch, self.view)
        values = divergence(self.kl_new, top_classes(helper, k) if k else helper, original)
        return Gap(original.sum_per_example(values), original.positions_per_example(), original.classes)

    def _sum(self, values: Tensor, predictions: Predictions) -> Tensor:
        """[P] values summed so that division by the count of units gives the reduction."""
        if self.reduction == "seq_mean":
            return predictions.mean_per_example(values).sum()
        if self.reduction == "legacy_mean":
            return values.sum() / predictions.classes
        return values.sum()

    def _reduced(self, gap: "Gap") -> Tensor:
        """The same sum of gaps per example."""
        if self.reduction == "seq_mean":
            return (gap.total / gap.count.clamp(min=1)).sum()
        return gap.total.sum() / (gap.classes if self.reduction == "legacy_mean" else 1)

    def _per_example(self, gap: "Gap") -> Tensor:
        summed = self.reduction in ("seq_sum", "legacy_batchmean_padded")
        return gap.total if summed else gap.total / gap.count.clamp(min=1)

    def _paired_terms(self, values: Tensor, student: Predictions, target: Tensor) -> dict[str, Tensor]:
        """The penalty of each pair, and beside it, for the record, both gaps."""
        own = self._per_example(Gap(student.sum_per_example(values), student.positions_per_example(), student.classes))
        each = values - target[student.example] if self.gap_level == "token" else own - target
        return {"forget": self._penalty(each).sum(), "a": own.sum().detach(), "g": target.sum()}

    def _penalty(self, difference: Tensor) -> Tensor:
        if self.gap_penalty == "squared":
            return difference.square()
        if self.gap_penalty == "huber":
            return F.huber_loss(difference, torch.zeros_like(difference), reduction="none")
        if self.gap_penalty == "hinge":
            return F.relu(-difference)
        return difference.abs()

    # After each update -----------------------------------------------------------------------------------------

    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        a, g = self._gaps(means)
        error = abs(a - g)
        self.first_error = error if self.first_error is None else self.first_error
        for name, value in (("a", a), ("g", g)):
            self.average[name] = self.stop.decay * self.average.get(name, value) + (1 - self.stop.decay) * value
        sign = float((a > g) - (a < g))
        row = {"loss": loss, "a": a, "g": g, "a0": self.a0, "sign": sign, "error": error, "retain": means["retain"]}
        self.record(module, row)
        if self._aligned(module, a, g):
            self.halt(module, f"the gap is aligned (stop.criterion={self.stop.criterion})")

    def _gaps(self, means: dict[str, float]) -> tuple[float, float]:
        if self.gap_level in ("dataset_mean", "batch"):
            return means["forget"], means.get("new", self.g)
        return means["a"], means["g"]

    def _aligned(self, module: TaskModule, a: float, g: float) -> bool:
        stop, update = self.stop, len(self.history)
        forget_passes = update * self.optim.batch_size / len(self.sets["forget"])
        if stop.criterion == "none" or update % stop.every or forget_passes < stop.min_forget_epochs:
            return False
        if stop.smoothing == "ema":
            a, g = self.average["a"], self.average["g"]
        elif stop.smoothing == "full":
            a, g = self.full_gap(module), self.g
        bound = {"abs": 1.0, "portion_of_first": self.first_error, "sigma": abs(g)}[stop.criterion] * stop.value
        return abs(a - g) <= bound

    def state_dict(self) -> dict:
        own = {"a0": self.a0, "first_error": self.first_error, "average": dict(self.average)}
        return super().state_dict() | own

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.a0, self.first_error = state["a0"], state["first_error"]
        self.average = dict(state["average"])


def _forget_unit(gap_level: str, reduction: str) -> str:
    return {"example": "example", "token": "position"}.get(gap_level, UNITS[reduction])
