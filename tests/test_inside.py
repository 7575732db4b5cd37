"""Hidden states of models, as they are compared with A_R's."""

import pytest
import torch
from helpers import tiny

from kga.inside import mean_states
from kga.models.ensemble import Ensemble
from kga.models.layers import blocks
from kga.tasks.classification import Classification


@pytest.mark.parametrize("make", [tiny.classifier, tiny.translator, tiny.responder])
def test_states_are_means_over_real_tokens_in_the_examples_order(make):
    task = make()
    examples = tiny.examples(9, task=task)
    found = mean_states(task, examples, batch_size=4)
    layer = blocks(task.model)[-1][0]
    for position in range(9):
        with torch.no_grad():
            states, _ = task.hidden(examples.batch([position]), layer)
        torch.testing.assert_close(found[position], states.mean(0), atol=1e-5, rtol=1e-4)


def test_an_ensemble_has_none_and_it_is_said(capsys):
    members = [tiny.classifier(seed).model for seed in (0, 1)]
    task = Classification(Ensemble(members), tiny.tokenizer(), 32)
    assert mean_states(task, tiny.examples(3, task=tiny.classifier())) is None
    assert "hidden states are not compared" in capsys.readouterr().out
