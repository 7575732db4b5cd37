"""What a model costs: floating-point operations, numbers that pass through memory, bytes. Nothing is run here."""

from dataclasses import dataclass

FORWARD_BACKWARD = 3  # a backward pass is two forward passes


@dataclass(frozen=True)
class Size:
    """A transformer. decoder: layers that also attend to an encoder's states (0: an encoder alone, or a decoder alone)."""

    layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int = 0
    decoder: int = 0

    def parameters(self) -> int:
        """Weights of blocks and of one table of the vocabulary; biases and norms left out."""
        block = 4 * self.width**2 + 2 * self.width * self.inner
        return self.layers * block + self.decoder * (block + 4 * self.width**2) + self.vocabulary * self.width


def flops(size: Size, batch: int, source: int, target: int = 0, scored: float = 0) -> float:
    """Of one forward pass over a batch padded to ``source`` tokens (and ``target`` tokens of a decoder), two for each
    multiplication and addition of matrices; scored: positions that pass the output layer.
    """
    h, f = size.width, size.inner
    encoder = 2 * (4 * h * h + 2 * h * f) * source + 4 * source**2 * h
    own = 2 * (4 * h * h + 2 * h * f) * target + 4 * target**2 * h
    cross = 2 * (2 * h * h * target + 2 * h * h * source) + 4 * target * source * h
    return batch * (size.layers * encoder + size.decoder * (own + cross)) + 2 * size.vocabulary * h * scored


def touched(size: Size, batch: int, source: int, target: int = 0, scored: float = 0) -> float:
    """Numbers of activations that a forward pass writes: what dropout, softmax, norms and gelu walk over."""
    h, f = size.width, size.inner
    encoder = (6 * h + f) * source + size.heads * source**2
    decoder = (10 * h + f) * target + size.heads * (target**2 + target * source)
    return batch * (size.layers * encoder + size.decoder * decoder) + size.vocabulary * scored


def cache_bytes(mode: str, positions: int, classes: int, width: int = 0, k: int = 64) -> float:
    """What ``method.cache`` keeps of a set: see ``kga.methods.caches``, without the few numbers per example."""
    if mode == "exact":
        return 4.0 * positions * classes
    if mode == "hidden":
        return 4.0 * (positions * width + classes * width)
    return positions * (8.0 * k + 4)
