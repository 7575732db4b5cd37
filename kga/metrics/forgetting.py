"""How close a model is to a reference (A_R, or A_D) on a set. ``update`` takes both models' Predictions."""

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchmetrics import Metric

from kga.metrics.signals import has_alternatives, log_truth_ratio
from kga.predictions import Predictions, cross_entropy, distances


class Divergence(Metric):
    """Distances of the output distributions: means over positions, in nats.

    jsd: Jensen-Shannon divergence (at most ln 2). jsd_legacy: the quantity that the released code calls so (unbounded,
    for comparison with published numbers only). agreement: share of positions with the same most probable class.
    exact_agreement: share of examples (of those with positions) that agree at every position. output_l2: ||p - q||_2 of the
    probabilities, which Bad Teacher's paper calls activation distance.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in ("jsd", "jsd_legacy", "agreement", "exact_agreement", "output_l2", "positions", "examples"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, model: Predictions, reference: Predictions) -> None:
        jsd, legacy, output_l2 = distances(model, reference).double().sum(0)
        self.jsd += jsd
        self.jsd_legacy += legacy
        self.output_l2 += output_l2
        same, counts = model.top() == reference.top(), model.positions_per_example()
        self.agreement += same.double().sum()
        self.exact_agreement += ((model.sum_per_example(same.long()) == counts) & (counts > 0)).double().sum()
        self.positions += len(model.targets)
        self.examples += (counts > 0).double().sum()

    def compute(self) -> dict[str, Tensor]:
        means = {name: getattr(self, name) / self.positions for name in ("jsd", "jsd_legacy", "agreement", "output_l2")}
        return means | {"exact_agreement": self.exact_agreement / self.examples}


class ProbabilityShift(Metric):
    """How the probability of the truth moved against a reference, per example, with ppl(x) = exp(mean loss of x).

    lpd: mean of |ppl - ppl_ref| / ppl_ref; lpd_median beside it, as few outliers decide the mean; log_ppl_difference:
    mean of |log ppl - log ppl_ref|, and its median. pdlp: share of examples whose probability fell (ppl > ppl_ref). Against A_R, two
    independent retrains give a pdlp of about one half. ks, ks_p, ks_n: see ``kolmogorov_smirnov``, of the examples' losses.
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
        } | {name: torch.tensor(value) for name, value in kolmogorov_smirnov(model, reference).items()}


class TruthRatio(Metric):
    """How much likelier the truth is than its alternatives, per example (TOFU: Maini et al. 2024), where labels have some.

    With R = exp(mean loss of the alternatives - loss of the truth): truth_ratio is the mean of min(R, 1 / R), near 1 where
    the model tells nothing of the truth; truth_ratio_ks and truth_ratio_ks_p compare log R with the reference's (TOFU's
    forget quality is that p against A_R).
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_state("model", [], dist_reduce_fx="cat")
        self.add_state("reference", [], dist_reduce_fx="cat")

    def update(self, model: Predictions, reference: Predictions) -> None:
        if has_alternatives(model):
            self.model.append(log_truth_ratio(model))
            self.reference.append(log_truth_ratio(reference))

    def compute(self) -> dict[str, Tensor]:
        joined = [torch.cat(part) if isinstance(part, list) and part else part for part in (self.model, self.reference)]
        if not len(joined[0]):
            return {}
        found = kolmogorov_smirnov(*joined)
        return {
            "truth_ratio": (-joined[0].abs()).exp().mean(),
            "truth_ratio_ks": torch.tensor(found["ks"]),
            "truth_ratio_ks_p": torch.tensor(found["ks_p"]),
        }


def kolmogorov_smirnov(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> dict[str, float]:
    """Two-sample test of whether two models' losses, one per example, are distributed alike.

    ks: largest gap of the distribution functions; ks_p: its p-value, which means nothing without ks_n, the number of
    examples: any difference becomes significant with enough of them. Losses of the same examples are no independent samples,
    so p is larger than it should be: compare it with that of two retrained models.
    """
    pair = [torch.as_tensor(values).detach().cpu().double().numpy() for values in (first, second)]
    found = ks_2samp(*pair)
    return {"ks": float(found.statistic), "ks_p": float(found.pvalue), "ks_n": float(len(pair[0]))}


def _median(values: Tensor) -> Tensor:
    # quantile means the two in the middle, but refuses more than 16 million values
    return values.quantile(0.5) if values.numel() < 10_000_000 else values.median()
