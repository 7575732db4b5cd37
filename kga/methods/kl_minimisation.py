"""KL minimisation: up on the forget set, as before on the retain set (Maini et al., TOFU, 2024)."""

from kga.methods.gradient_ascent import GradientAscent


class KLMinimisation(GradientAscent):
    """L = -gamma * CE on D_f + alpha * KL(A_D || A*) on D_r, over scored positions alone (the published code counts
    prompts and padding too).

    Needs D_f, D_r, A_D frozen. Cost per update: 3 forwards of both batches and one of A_D on D_r unless cached. The first
    term has no lower bound.
    """
