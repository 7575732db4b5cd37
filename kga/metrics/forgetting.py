"""How close a model is to a reference (A_R, or A_D) on a set. ``update`` takes both models' Predictions."""

import torch
from torch import Tensor
from torchmetrics import Metric

from kga.predictions import Predictions, both_jsd, cross_entropy


class Divergence(Metric):
    """Distances of the output distributions: means over positions, in nats.

    jsd: Jensen-Shannon divergence (at most ln 2). jsd_legacy: the quantity that the released code calls so (unbounded,
    for comparison with published numbers only). agreement: share of positions with the same most probable class.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in ("jsd", "jsd_legacy", "agreement", "positions"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, model: Predictions, reference: Predictions) -> None:
        jsd, legacy = both_jsd(model, reference).double().sum(0)
        self.jsd += jsd
        self.jsd_legacy += legacy
        self.agreement += (model.top() == reference.top()).double().sum()
        self.positions += len(model.targets)

    def compute(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) / self.positions for name in ("jsd", "jsd_legacy", "agreement")}


class ProbabilityShift(Metric):
    """How the probability of the truth moved against a reference, per example, with ppl(x) = exp(mean loss of x).

    lpd: mean of |ppl - ppl_ref| / ppl_ref; lpd_median beside it, as few outliers decide the mean; log_ppl_difference:
    mean of |log ppl - log ppl_ref|, and its median. pdlp: share of examples whose probability fell (ppl > ppl_ref). Against A_R, two
    independent retrains give a pdlp of about one half.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_state("model", [], dist_reduce_fx="cat")
        self.add_state("reference", [], dist_reduce_fx="cat")

    def update(self, model: Predictions, reference: Predictions) -> None:
        self.model.append(model.mean_per_example(cross_entropy(model)))
        self.reference.append(reference.mean_per_example(cross_entropy(reference)))

    def compute(self) -> dict[str, Tensor]:
        joined = [torch.cat(part) if isinstance(part, list) else part for part in (self.model, self.reference)]
        model, reference = (part.double() for part in joined)
        relative = torch.expm1(model - reference).abs()
        return {
            "lpd": relative.mean(),
            "lpd_median": _median(relative),
            "log_ppl_difference": (model - reference).abs().mean(),
            "log_ppl_difference_median": _median((model - reference).abs()),
            "pdlp": (model > reference).double().mean(),
        }


def _median(values: Tensor) -> Tensor:
    # quantile means the two in the middle, but refuses more than 16 million values
    return values.quantile(0.5) if values.numel() < 10_000_000 else values.median()
