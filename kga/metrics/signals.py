"""What an attacker reads off a model's predictions for every example: one number per example and signal.

Columns, [B] float32 each, nats where nothing else is said: loss (mean over the scored positions), log_prob (of the truth,
summed), correct (share of positions), confidence (exp(-loss)), phi (mean of log p_y - log(1 - p_y): Carlini et al. 2022),
entropy and modified_entropy (means; the latter Song and Mittal 2021), min_k (mean of the lowest fifth of the log p_y, at
least one: Shi et al. 2024), min_k_plus (the same of the log p_y standardised by their mean and deviation over the classes:
Zhang et al. 2025), top_1 to top_3 (mean probabilities of the most probable classes), log_truth_ratio (mean cross-entropy of
the alternatives minus that of the truth, the log of TOFU's R: Maini et al. 2024; the alternatives are all other classes or
the flipped label, so the tokens of a text have none).
An example without positions has 0 everywhere, but for confidence (1).
"""

import torch
from torch import Tensor

from kga.predictions import Predictions, over_positions

LOWEST = 0.2  # share of an example's positions that Min-K% looks at
CERTAIN = 1e4  # bound of |log p| in nats: impossible must stay a number, and what models really say in its order
ALTERNATIVES = 1000  # classes up to which every other class is an alternative
_DENSE = ("truth", "phi", "entropy", "modified_entropy", "standardised", "top_1", "top_2", "top_3", "log_truth_ratio")


def basic_signals(predictions: Predictions) -> dict[str, Tensor]:
    """loss, log_prob, correct and confidence."""
    truth = predictions.truth().clamp(min=-CERTAIN)
    loss = predictions.mean_per_example(-truth)
    return {
        "loss": loss,
        "log_prob": predictions.sum_per_example(truth),
        "correct": predictions.mean_per_example(predictions.correct()),
        "confidence": (-loss).exp(),
    }


def signals(predictions: Predictions) -> dict[str, Tensor]:
    """All columns; log_truth_ratio only for labels, of which there are few enough to be alternatives."""
    found = dict(zip(_DENSE, over_positions(_at_positions, predictions).unbind(1), strict=True))
    if not has_alternatives(predictions):
        del found["log_truth_ratio"]
    truth, standardised = found.pop("truth"), found.pop("standardised")
    means = {name: predictions.mean_per_example(values) for name, values in found.items()}
    return basic_signals(predictions) | means | {
        "min_k": _lowest(predictions, truth),
        "min_k_plus": _lowest(predictions, standardised),
    }  # fmt: skip


def has_alternatives(predictions: Predictions) -> bool:
    """Whether all other classes are alternatives to the truth: of labels, if there are few enough, never of tokens."""
    labels = predictions.classes == 2 or len(predictions.targets) <= predictions.size
    return labels and predictions.classes <= ALTERNATIVES


def log_truth_ratio(predictions: Predictions) -> Tensor:
    """[B] the column of that name alone."""
    log_p = predictions.log_probs.clamp(min=-CERTAIN)
    truth = log_p.gather(1, predictions.targets.unsqueeze(1)).squeeze(1)
    return predictions.mean_per_example(truth - (log_p.sum(1) - truth) / max(1, predictions.classes - 1))


def _at_positions(part: Predictions) -> Tensor:
    """[P, 9] the columns of ``_DENSE``, from dense predictions."""
    log_p = part.log_probs.clamp(min=-CERTAIN)
    own = part.targets.unsqueeze(1)
    truth = log_p.gather(1, own)
    others = log_p.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True).clamp(min=-CERTAIN)
    p = log_p.exp()
    mean = (p * log_p).sum(1, keepdim=True)
    deviation = ((p * log_p.square()).sum(1, keepdim=True) - mean.square()).clamp(min=1e-6).sqrt()
    # Of the other classes, -p_i log(1 - p_i); of the truth, -(1 - p_y) log p_y with 1 - p_y as the sum of the others. The
    # truth's own p log(1 - p) is never added: taking it off again would drown the small rest of a sure model.
    modified = -(p * _log_of_rest(log_p).scatter(1, own, 0.0)).sum(1, keepdim=True) - others.exp() * truth
    top = p.topk(min(3, p.shape[1]), 1).values
    top = torch.nn.functional.pad(top, (0, 3 - top.shape[1]))
    alternatives = (log_p.sum(1, keepdim=True) - truth) / max(1, p.shape[1] - 1)
    columns = (truth, truth - others, -mean, modified, (truth - mean) / deviation, top, truth - alternatives)
    return torch.cat(columns, 1)


def _log_of_rest(log_p: Tensor) -> Tensor:
    """log(1 - p), in the form that is exact on either side of p = 1/2."""
    near = torch.log(-torch.expm1(log_p.clamp(max=-1e-12)))
    return torch.where(log_p > -0.6931, near, torch.log1p(-log_p.exp())).clamp(min=-CERTAIN)


def _lowest(predictions: Predictions, values: Tensor) -> Tensor:
    """[B] mean of the lowest ``LOWEST`` of each example's values, rounded down, at least one."""
    counts = predictions.positions_per_example()
    order = values.argsort(stable=True)
    order = order[predictions.example[order].argsort(stable=True)]
    place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[predictions.example]
    kept = (place < (counts * LOWEST).long().clamp(min=1)[predictions.example]).to(values.dtype)
    total = values.new_zeros(predictions.size).index_add(0, predictions.example, values[order] * kept)
    return total / (counts * LOWEST).long().clamp(min=1)
