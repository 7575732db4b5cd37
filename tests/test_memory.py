"""Peak memory of a stage, not of the process."""

import numpy as np
import pytest
import torch

from kga.memory import CLEAR, PeakMemory

BLOCK = 64 * 2**20


@pytest.mark.skipif(torch.cuda.is_available() or not CLEAR.exists(), reason="reads resident memory as Linux counts it")
def test_what_was_freed_before_does_not_count():
    with PeakMemory() as idle:
        pass
    with PeakMemory() as busy:
        block = np.ones(4 * BLOCK // 8)
        block += 1
        del block
    with PeakMemory() as after:
        pass
    assert busy.peak - idle.peak > 3 * BLOCK
    assert busy.peak - after.peak > 3 * BLOCK
