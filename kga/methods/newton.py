"""A damped Newton step with a Hessian of rank 2, and the noise that hides what such a step leaves behind."""

import math

import torch
from torch import Tensor

SAFE = 0.1  # share of the damping that every eigenvalue of a matrix to be inverted must reach


def newton_step(
    gradient: Tensor, data: Tensor, request: Tensor, scale: tuple[float, float], damping: float
) -> tuple[Tensor, bool]:
    """(H + damping I)^-1 gradient for H = scale[0] data data^T - scale[1] request request^T, all vectors [p].

    Exact by Woodbury's identity, with U = [data, request] and C = diag(scale[0], -scale[1]):

        (U C U^T + damping I)^-1 = (I - U (damping I + C U^T U)^-1 C U^T) / damping

    The eigenvalues of H + damping I are those of the 2 x 2 matrix damping I + C U^T U, and the damping. As the request's
    part is subtracted, one may be 0 or less, and no minimum would be stepped to: where one is below ``SAFE`` of the
    damping, the request's part is left out. The second value says whether it was kept.
    """
    both = torch.stack((data, request), 1)
    weights = torch.tensor([scale[0], -scale[1]], dtype=both.dtype)
    gram = both.T @ both
    eye = torch.eye(2, dtype=both.dtype)
    kept = float(torch.linalg.eigvals(weights[:, None] * gram).real.min()) >= (SAFE - 1) * damping
    if not kept:
        weights[1] = 0.0
    core = damping * eye + weights[:, None] * gram
    inner = torch.linalg.solve(core, weights * (both.T @ gradient))
    return (gradient - both @ inner) / damping, kept


def noise_scale(
    share: float, damping: float, epsilon: float, delta: float, hessian_lipschitz: float, lipschitz: float
) -> float:
    """Standard deviation of the noise for (epsilon, delta)-unlearning of m of n examples, share = m / n:

    sigma = gamma / epsilon sqrt(2 ln(1.25 / delta)),   gamma = 2 M L^2 m^2 / (n^2 lambda^3)

    with M the Lipschitz constant of the loss's Hessian and L that of the loss. Growing with lambda^-3, it drowns a model
    where the damping lambda is small.
    """
    gamma = 2 * hessian_lipschitz * lipschitz**2 * share**2 / damping**3
    return gamma / epsilon * math.sqrt(2 * math.log(1.25 / delta))
