"""One number for how close a model's utility is to the retrained model's everywhere."""

from collections.abc import Mapping

SPLITS = ("forget", "retain", "test")


def tug_of_war(
    utility: Mapping[str, Mapping[str, float]], retrained: Mapping[str, Mapping[str, float]], metric: str
) -> float:
    """Product over forget, retain and test of (1 - |difference of ``metric`` to A_R|) (Zhao et al. 2024); 1 is best.

    Fooled by models that are wrong in another way than A_R: read it beside the JSD and its noise floor.
    """
    product = 1.0
    for split in SPLITS:
        product *= 1 - abs(utility[split][metric] - retrained[split][metric])
    return product
