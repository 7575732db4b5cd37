"""How well a model does its task. ``update`` takes Predictions; ``compute`` gives a dictionary of numbers."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from kga.predictions import Predictions, cross_entropy


class Loss(Metric):
    """Mean negative log-likelihood of the truth per position, in nats: total loss over total positions."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("positions", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Predictions) -> None:
        self.total += cross_entropy(predictions).double().sum()
        self.positions += len(predictions.targets)

    def compute(self) -> dict[str, Tensor]:
        return {"loss": self.total / self.positions}


class Tokens(Metric):
    """Token accuracy (share of target tokens that are the most probable one, given the true ones before) and corpus
    perplexity: exp of total loss over total tokens."""

    higher_is_better = True
    names = ("token_accuracy", "perplexity")

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "loss", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Predictions) -> None:
        self.correct += predictions.correct().double().sum()
        self.loss += cross_entropy(predictions).double().sum()
        self.tokens += len(predictions.targets)

    def compute(self) -> dict[str, Tensor]:
        return {"token_accuracy": self.correct / self.tokens, "perplexity": (self.loss / self.tokens).exp()}


class SingleLabel(Metric):
    """Accuracy, micro-F1 (the same for single labels) and macro-F1: the mean F1 of the classes that occur in the truth
    or the predictions (torchmetrics leaves the others out)."""

    higher_is_better = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, predictions: Predictions) -> None:
        self.predicted.append(predictions.top())
        self.targets.append(predictions.targets)

    def compute(self) -> dict[str, Tensor]:
        predicted, targets = _joined(self.predicted), _joined(self.targets)
        return {
            "accuracy": multiclass_accuracy(predicted, targets, self.classes, average="micro"),
            "micro_f1": multiclass_f1_score(predicted, targets, self.classes, average="micro"),
            "macro_f1": multiclass_f1_score(predicted, targets, self.classes, average="macro"),
        }


class MultiLabel(Metric):
    """Micro-F1, macro-F1 over labels that occur, and accuracy (share of examples with every label right).

    A label is given where its probability exceeds its threshold: .5, unless ``thresholds`` [L] (tuned on validation,
    see ``tuned_thresholds``) are set.
    """

    higher_is_better = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.thresholds = torch.full((classes,), 0.5)
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(self, predictions: Predictions) -> None:
        shape = (predictions.size, len(self.thresholds))
        self.probabilities.append(predictions.log_probs[:, 1].exp().reshape(shape))
        self.truth.append(predictions.targets.reshape(shape))

    def compute(self) -> dict[str, Tensor]:
        truth = _joined(self.truth).bool()
        given = _joined(self.probabilities) > self.thresholds.to(truth.device)
        per_label = f1(given, truth, dim=0)
        occurs = (given | truth).any(0)
        return {
            "micro_f1": f1(given.flatten(), truth.flatten(), dim=0),
            "macro_f1": per_label[occurs].mean() if occurs.any() else torch.zeros(()),
            "accuracy": (given == truth).all(1).float().mean(),
        }

    def tuned_thresholds(self, support: int = 5, steps: int = 100) -> Tensor:
        """[L] the threshold with the best F1 on what was fed (validation data), of ``steps`` in (0, 1); .5 for labels with
        fewer than ``support`` examples."""
        probabilities, truth = _joined(self.probabilities), _joined(self.truth).bool()
        grid = torch.arange(1, steps, device=truth.device) / steps
        scores = torch.stack([f1(probabilities > threshold, truth, dim=0) for threshold in grid])
        best = grid[scores.argmax(0)]
        return torch.where(truth.sum(0) >= support, best, torch.full_like(best, 0.5)).cpu()


def f1(given: Tensor, truth: Tensor, dim: int) -> Tensor:
    """F1 = 2 TP / (2 TP + FP + FN) along a dimension of boolean tensors; 0 where nothing is given and nothing true."""
    hits = (given & truth).sum(dim).float()
    return 2 * hits / (given.sum(dim) + truth.sum(dim)).clamp(min=1)


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    return torch.cat(parts) if isinstance(parts, list) else parts
