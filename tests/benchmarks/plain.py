"""The published loop, written plainly in PyTorch: four live models, fixed length, everything computed at every update."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

Batch = tuple[dict[str, Tensor], Tensor]  # a model's inputs, and which positions of its output are scored


class Plain:
    """A* against A_D, A_f and A_n: |KL(A_f, A*) on D_f - KL(A_n, A_D) on D_n| + alpha * KL(A_D, A*) on D_r."""

    def __init__(
        self, original: PreTrainedModel, forget_helper: PreTrainedModel, new_helper: PreTrainedModel,
        student: PreTrainedModel, alpha: float = 1.0, lr: float = 1e-5,
    ) -> None:  # fmt: skip
        self.original, self.forget_helper, self.new_helper = original.eval(), forget_helper.eval(), new_helper.eval()
        self.student, self.alpha = student.train(), alpha
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.01)

    def update(self, forget: Batch, new: Batch, retain: Sequence[Batch]) -> float:
        """One optimiser step from a batch of D_f, one of D_n and several of D_r; gives the loss."""
        self.optimizer.zero_grad()
        total = 0.0
        scored = sum(batch[1].sum() for batch in retain)
        for batch in retain:
            part = self.alpha * divergence(self.original, self.student, batch) / scored
            part.backward()
            total += part.item()
        with torch.no_grad():
            target = divergence(self.new_helper, self.original, new) / new[1].sum()
        gap = divergence(self.forget_helper, self.student, forget) / forget[1].sum()
        part = (gap - target).abs()
        part.backward()
        self.optimizer.step()
        return total + part.item()


def divergence(teacher: PreTrainedModel, student: PreTrainedModel, batch: Batch) -> Tensor:
    """KL(teacher || student) summed over the scored positions of a batch."""
    inputs, scored = batch
    with torch.no_grad():
        wanted = teacher(**inputs).logits.log_softmax(-1)
    given = student(**inputs).logits.log_softmax(-1)
    return (F.kl_div(given, wanted, reduction="none", log_target=True).sum(-1) * scored).sum()


def texts_batch(rows: Mapping[str, Sequence], cap: int) -> Batch:
    """Texts to classify, all padded to ``cap`` tokens."""
    ids, mask = _padded(rows["input_ids"], cap)
    return {"input_ids": ids, "attention_mask": mask}, torch.ones(len(ids))


def pairs_batch(rows: Mapping[str, Sequence], cap: int, start: int) -> Batch:
    """Sentences and translations, all padded to ``cap`` tokens; the decoder begins with the token ``start``."""
    ids, mask = _padded(rows["input_ids"], cap)
    shifted, _ = _padded([[start, *row][: len(row)] for row in rows["labels"]], cap)
    scored = _padded(rows["labels"], cap)[1].float()
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted}, scored


def _padded(rows: Sequence[Sequence[int]], cap: int) -> tuple[Tensor, Tensor]:
    """[B, cap] token ids followed by zeros, and 1 where a token stands."""
    ids, mask = torch.zeros(len(rows), cap, dtype=torch.long), torch.zeros(len(rows), cap, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = torch.as_tensor(row), 1
    return ids, mask
