"""The memory meter against sizes worked out by hand."""

import torch

from benchmarks.memory import peak_bytes

MIB = 2**20


def block(mebibytes: int) -> torch.Tensor:
    return torch.zeros(mebibytes * MIB, dtype=torch.uint8)


def test_what_lives_at_once_counts_and_what_was_freed_before_does_not() -> None:
    def run(mark) -> torch.Tensor:
        kept, freed = block(4), block(64)
        del freed
        with mark():
            first, second = block(8), block(2)  # 4 + 8 + 2
            del first
            third = block(3)  # 4 + 2 + 3
        later = block(50)
        del second, third, later
        return kept

    assert [round(peak_bytes(run) / MIB, 2) for _ in range(2)] == [14, 14]


def test_activations_and_gradients_count_as_long_as_they_live() -> None:
    def run(mark) -> torch.Tensor:
        weight = torch.ones(MIB, requires_grad=True)  # 4 MiB
        with mark():
            loss = (weight.exp() * weight).sum()  # exp is kept for both gradients, the product for none: 4 + 4 (+ 4)
            loss.backward()
        return weight

    # Forward: weight, exp, product = 12. Backward: weight, exp, the gradients of both factors and their sum at most = 20.
    assert 12 <= peak_bytes(run) / MIB <= 20.1
