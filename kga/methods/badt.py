"""Bad teaching: on the forget set as one who knows nothing, on the rest as before."""

import math
from collections.abc import Mapping

from torch import Tensor

from kga.data.encoded import Examples
from kga.errors import UserError, one_of
from kga.methods.base import Helper
from kga.methods.forget_retain import ForgetRetain
from kga.objective import Step
from kga.optim import Optim
from kga.predictions import Predictions, kl, over_positions
from kga.tasks.base import TaskModule

STARTS = {"random_init": "scratch", "pretrained": "pretrained"}


class BadT(ForgetRetain):
    """L = s * KL(incompetent || A*) on D_f + (1 - s) * KL(A_D || A*) on D_r, from A_D (Chundawat et al. 2023).

    The published loop shuffles all of D_f and a sample of D_r into one loader and takes the mean over each mixed batch.
    Over a pass that is L, with s the share of D_f's examples in the mixture (of its positions, where targets of one set are
    longer); here every update has a batch of each set, weighed by s, so that no update lacks one of them.

    Needs D_f, D_r; A_D and an untrained model ("uniform": none), both frozen. Cost per update: 3 forwards of both batches,
    and one of each frozen model unless cached.

    bad_teacher: who teaches on D_f, "random_init" (the architecture with random weights), "pretrained" (the model as it was
        before A_D's training) or "uniform" (1 / C). A random decoder is all but uniform over the vocabulary.
    retain_sample: share of D_r that its batches come from. forget_share: s; None: |D_f| / (|D_f| + retain_sample * |D_r|),
        so that a smaller request is forgotten less.
    retain_batches: batches of D_r per update; they don't change the weights.
    """

    def __init__(
        self,
        bad_teacher: str = "random_init",
        retain_sample: float = 0.3,
        forget_share: float | None = None,
        retain_batches: int = 1,
        optim: Optim | Mapping | None = None,
        cache: str = "auto",
    ) -> None:
        super().__init__(retain_batches=retain_batches, retain_loss="kl", optim=optim, cache=cache)
        one_of("method.bad_teacher", bad_teacher, (*STARTS, "uniform"))
        if not 0 < retain_sample <= 1:
            raise UserError(f"method.retain_sample={retain_sample} must be a share of D_r: above 0 and at most 1")
        if forget_share is not None and not 0 < forget_share < 1:
            raise UserError(f"method.forget_share={forget_share} must be a share between 0 and 1, or null")
        self.bad_teacher, self.retain_sample, self.forget_share = bad_teacher, retain_sample, forget_share
        if bad_teacher != "uniform":
            self.teachers = {**self.teachers, "incompetent": ("forget",)}

    def helpers(self) -> dict[str, Helper]:
        start = STARTS.get(self.bad_teacher)
        return {"incompetent": Helper(None, start=start, per_request=False)} if start else {}

    def stream_options(self) -> dict:
        return {"share": {"retain": self.retain_sample}}

    def attach(self, frozen: Mapping, sets: Mapping[str, Examples], *more: object, **options: object) -> "BadT":
        super().attach(frozen, sets, *more, **options)
        forget, retain = len(sets["forget"]), self.stream(0).streams["retain"].size()
        self.gamma = forget / (forget + retain) if self.forget_share is None else self.forget_share
        self.alpha = 1 - self.gamma
        return self

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        batch = step["forget"]
        student = module.predict(batch, self.view)
        if self.bad_teacher == "uniform":
            return uniform_kl(student).sum()
        return kl(self.teacher("incompetent", batch, "forget"), student).sum()

    def outcome(self) -> dict:
        return super().outcome() | {"forget_share": self.gamma}


def uniform_kl(predictions: Predictions) -> Tensor:
    """[P] KL(U || q) = -ln C - mean_v log q_v, in nats: how far predictions are from a blind guess among C classes."""
    return over_positions(lambda part: -math.log(part.classes) - part.log_probs.mean(1), predictions)
