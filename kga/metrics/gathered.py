"""Metrics of what several processes saw."""

from torchmetrics import Metric

from kga import ranks


def gathered(metric: Metric) -> Metric:
    """The metric with all ranks' states, from which it computes without asking them again. All ranks call this.

    torchmetrics would gather by itself, but fails where a rank saw nothing: an empty list has no shape and no dtype.
    """
    if ranks.world_size() == 1:
        return metric
    parts = ranks.gather({name: _moved(value, "cpu") for name, value in metric.metric_state.items()})
    for name in parts[0]:
        summed = parts[0][name]
        for part in parts[1:]:
            summed = summed + part[name]  # lists are joined, sums are added
        setattr(metric, name, _moved(summed, metric.device))
    metric._update_count = max(1, metric._update_count)  # else it warns that this rank saw nothing
    return own(metric)


def own(metric: Metric) -> Metric:
    """The metric of what this process saw, also where others are at work."""
    metric.distributed_available_fn = lambda: False
    return metric


def _moved(value, device):
    return [item.to(device) for item in value] if isinstance(value, list) else value.to(device)
