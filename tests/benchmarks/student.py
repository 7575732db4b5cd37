"""The lower bound: forward and backward of the student alone, on batches that are there already."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from benchmarks.measure import Stopwatch

IGNORED = -100


class Student:
    """A model trained by cross-entropy in bare PyTorch, as precisely as Lightning's ``precision`` says."""

    def __init__(self, model: PreTrainedModel, precision: str, lr: float = 1e-5, clip: float = 1.0) -> None:
        self.model, self.mixed, self.clip = model.train(), precision == "bf16-mixed", clip
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)

    def run(self, updates: Sequence[Sequence[dict[str, Tensor]]]) -> dict[str, float]:
        """Seconds of forward and backward passes, and of clipping and the optimiser's steps."""
        passes, steps = Stopwatch(), Stopwatch()
        for batches in updates:
            passes.start()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):  # weights are cast once per update
                for batch in batches:
                    self.loss(batch).backward()
            passes.stop()
            steps.start()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            steps.stop()
        return passes.measured() | steps.measured("optimiser_")

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of the labels; no padded position of a target passes the output layer."""
        if "decoder_input_ids" not in batch:
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return F.cross_entropy(logits.float(), batch["labels"])
        names, scored = ("input_ids", "attention_mask", "decoder_input_ids"), batch["labels"] != IGNORED
        states = self.model.model(**{name: batch[name] for name in names}, use_cache=False)[0][scored]
        logits = self.model.lm_head(states) + self.model.final_logits_bias
        return F.cross_entropy(logits.float(), batch["labels"][scored])
