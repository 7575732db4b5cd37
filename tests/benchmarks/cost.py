"""What training and unlearning cost: operations, bytes, padding, seconds on a GPU. Nothing is run here.

S and T are tokens of an input and of a decoder's target, padding included; H the width of a model, F the inner one.
"""

import math
from dataclasses import dataclass

import numpy as np

FORWARD_BACKWARD = 3  # forward passes that a forward and a backward pass cost
TEACHING, EVALUATED = 256, 128  # examples of a batch that caches are filled with, and that is evaluated


@dataclass(frozen=True)
class Size:
    """A transformer. decoder: layers that attend to an encoder's states, too (0: ``layers`` are all there are).

    entries: rows of the embedding table (and of an output layer that does not share it). outputs: entries it scores;
    labels: classes of a classifier, whose head reads one position. matrices: of a feed-forward block (3: gated).
    """

    layers: int
    width: int
    inner: int
    heads: int
    entries: int
    outputs: int = 0
    labels: int = 0
    decoder: int = 0
    matrices: int = 2

    def block(self) -> int:
        """Weights of a layer of the encoder; biases and norms are left out everywhere."""
        return 4 * self.width**2 + self.matrices * self.width * self.inner

    def parameters(self) -> int:
        """All weights but biases, norms and learned positions."""
        head = self.width * (self.width + self.labels) if self.labels else 0
        return (
            self.layers * self.block()
            + self.decoder * (self.block() + 4 * self.width**2)
            + self.entries * self.width
            + head
        )


def flops(size: Size, batch: int, source: int, target: int = 0, scored: float = 0, first_only: bool = False) -> float:
    """Of one forward pass over B examples, two for each multiplication and addition of matrices.

    scored: positions that pass the output layer. first_only: in the last block of a classifier only the first position
    goes on after attention (``task.first_position``).
    """
    h = size.width
    encoder = 2 * size.block() * source + 4 * source**2 * h
    own = 2 * size.block() * target + 4 * target**2 * h
    cross = 4 * h * h * (target + source) + 4 * target * source * h
    head = 2 * h * (h + size.labels) if size.labels else 0
    unread = 2 * size.matrices * h * size.inner * (source - 1) if first_only else 0
    body = size.layers * encoder + size.decoder * (own + cross) + head - unread
    return batch * body + 2 * size.outputs * h * scored


def touched(size: Size, batch: int, source: int, target: int = 0, scored: float = 0) -> float:
    """Numbers of activations that a forward pass writes: what dropout, softmax, norms and activations walk over."""
    h, f = size.width, size.inner
    encoder = (6 * h + f) * source + size.heads * source**2
    decoder = (10 * h + f) * target + size.heads * (target**2 + target * source)
    return batch * (size.layers * encoder + size.decoder * decoder) + size.outputs * scored


# Bytes ---------------------------------------------------------------------------------------------------------


def state_bytes(size: Size, trained: float | None = None) -> float:
    """Weights, gradients and AdamW's two moments in float32. trained: weights beside a frozen model in bfloat16."""
    return 16 * size.parameters() if trained is None else 2 * size.parameters() + 16 * trained


def activation_bytes(
    size: Size, source: float, target: float = 0, mixed: bool = True, kept: int = 2, fused: bool = True
) -> float:
    """Of one example, kept for the backward pass, with dropout's masks.

    kept: tables [S, F] of a feed-forward block (2: before and after gelu, 1: relu, 4: gated). fused: attention that keeps
    no [S, S] tables; processors keep three of them where attention has dropout.
    """
    h, f = size.width, size.inner
    number, more = (2, 16 * h) if mixed else (4, 4 * h)
    encoder = (number * (8 * h + kept * f) + more) * source + (0 if fused else 12 * size.heads * source**2)
    decoder = number * (12 * h + kept * f) + more
    return size.layers * encoder + size.decoder * (decoder * target + 2 * number * h * source)


def cache_bytes(
    mode: str, examples: int, positions: int, classes: int, width: int = 0, k: int = 64, number: int = 4, bias: int = 0
) -> float:
    """What ``method.cache`` keeps of a set (``kga.methods.caches.table``).

    number: bytes of a hidden state's numbers. bias: numbers of the output layer's biases.
    """
    about = 16 * examples + 8 * positions + 8  # where an example's positions lie; targets; the number of classes
    if mode == "exact":
        return about + 4 * positions * classes
    if mode == "hidden":
        return about + number * (positions * width + classes * width + bias)
    return about + positions * (8 * min(k, classes) + 4)


def auto(sizes: dict[str, float], limit: float) -> tuple[str, float]:
    """The mode that ``method.cache=auto`` takes for a set, and its bytes."""
    mode = min(sizes, key=sizes.__getitem__)
    return (mode, sizes[mode]) if sizes[mode] <= limit else ("none", 0.0)


# Padding -------------------------------------------------------------------------------------------------------


def longest(lengths: np.ndarray, batch: int, bucket: int) -> np.ndarray:
    """[batches, K] tokens that each batch is padded to, of examples with [N, K] lengths in the order they are drawn.

    bucket: batches of a window that is sorted by the sum of lengths, longest first (1: no sorting).
    """
    found = []
    for window in np.split(lengths, range(bucket * batch, len(lengths), bucket * batch)):
        ordered = window[np.argsort(-window.sum(1), kind="stable")] if bucket > 1 else window
        found += [part.max(0) for part in np.split(ordered, range(batch, len(ordered), batch))]
    return np.array(found)


# Seconds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """rate: operations/s that a model reaches. bandwidth: bytes/s of memory. launch: seconds that a layer's forward pass
    takes at the least (a backward pass takes 1.5 times as long). update: seconds around an update. link: bytes/s to other GPUs.
    """

    rate: float
    bandwidth: float
    launch: float
    update: float
    link: float


@dataclass(frozen=True)
class Study:
    """What is predicted. lengths: [N, 2] tokens of inputs and targets (0 for a classifier), cut as the model cuts them.

    use: share of a GPU's peak that such a model reaches. kept: see ``activation_bytes``. evaluated: examples of all splits. trained: weights that take gradients beside a frozen body (None: all).
    generated: tokens that the longest text of a batch takes (0: no texts).
    """

    name: str
    size: Size
    examples: int
    epochs: int
    batch: int
    lengths: np.ndarray
    evaluated: int
    use: float
    trained: float | None = None
    generated: int = 0
    kept: int = 2
    whole: bool = False  # a decoder alone: prompt and target are one sequence

    def padded(self, batch: int, bucket: int = 50) -> np.ndarray:
        """[batches, 2] see ``longest``."""
        if not self.whole:
            return longest(self.lengths, batch, bucket)
        found = longest(self.lengths.sum(1, keepdims=True), batch, bucket)
        return np.concatenate([found, 0 * found], 1)

    def forward(self, batch: int, bucket: int = 50) -> float:
        """Operations of a forward pass for one example, in batches of ``batch``."""
        scored = self.lengths[:, 1].mean() if self.size.outputs else 0
        return float(
            np.mean([flops(self.size, 1, s, t, scored, bool(self.size.labels)) for s, t in self.padded(batch, bucket)])
        )

    def moved(self) -> float:
        """Weights that the optimiser moves."""
        return self.size.parameters() if self.trained is None else self.trained


@dataclass(frozen=True)
class Request:
    """KGA's settings that decide what a request costs; forget: share of D."""

    updates: int
    retain_batches: int
    batch: int
    helper_epochs: int
    retain_sample: float = 1.0
    live: bool = False
    bucket: int = 50
    texts: int = 200
    forget: float = 0.01

    def drawn(self, study: Study) -> float:
        """Examples of D_r that are drawn at least once."""
        available = (1 - self.forget) * study.examples * self.retain_sample
        return min(available, self.updates * self.retain_batches * self.batch)


def batch_seconds(
    study: Study, gpu: Gpu, examples: int, of: int, bucket: int = 50, trained: bool = False, live: bool = False
) -> float:
    """Of one batch of ``examples``, a share of a batch of ``of``: a forward pass, or (trained) a backward pass, too.

    live: a frozen model's forward pass besides. Where the arithmetic is shorter than launching its kernels, that counts.
    """
    passes = 1 + trained * (2 if study.trained is None else 1) + live  # a frozen body takes no gradients of its weights
    layers = study.size.layers + 1.5 * study.size.decoder  # cross-attention is half a layer
    work = passes * examples * study.forward(of, bucket) / gpu.rate
    return max(work, gpu.launch * layers * (1 + 1.5 * trained + live))


def update_seconds(study: Study, gpu: Gpu, gpus: int) -> float:
    """Around the passes of an update: Lightning, AdamW (32 bytes a weight), gradients summed over the GPUs."""
    summed = 2 * 4 * study.moved() * (gpus - 1) / gpus / gpu.link
    return gpu.update + 32 * study.moved() / gpu.bandwidth + summed


def training(study: Study, gpu: Gpu, gpus: int, examples: float, epochs: int, bucket: int = 50) -> float:
    """Seconds of supervised training: the examples of every update are shared out."""
    count = math.ceil(examples)
    share = math.ceil(min(study.batch, count) / gpus)
    one = batch_seconds(study, gpu, share, study.batch, bucket, trained=True)
    return epochs * math.ceil(count / study.batch) * (one + update_seconds(study, gpu, gpus))


def stages(study: Study, gpu: Gpu, gpus: int, request: Request) -> dict[str, float]:
    """Seconds of each stage of a run on ``gpus`` GPUs with ``trainer=ddp``.

    One process fills the caches. Of a0 every process passes over all of D_f. Live: g and a0 alone are computed once.
    """
    forget, bucket = request.forget * study.examples, request.bucket
    one = batch_seconds(
        study, gpu, math.ceil(request.batch / gpus), request.batch, bucket, trained=True, live=request.live
    )
    teaching = batch_seconds(study, gpu, TEACHING, TEACHING) / TEACHING
    looked_at = 4 * forget + (0 if request.live else request.drawn(study))  # D_n twice, D_f by A_f and A*, D_r by A_D
    evaluated = 3 * math.ceil(study.evaluated / (EVALUATED * gpus)) * batch_seconds(study, gpu, EVALUATED, EVALUATED)
    return {
        "A_D": training(study, gpu, gpus, study.examples, study.epochs, bucket),
        "Retrain": training(study, gpu, gpus, (1 - request.forget) * study.examples, study.epochs, bucket),
        "helpers": 2 * training(study, gpu, gpus, forget, request.helper_epochs, bucket),
        "caches": looked_at * teaching,
        "unlearning": request.updates * ((1 + request.retain_batches) * one + update_seconds(study, gpu, gpus)),
        "evaluation": evaluated + _writing(study, gpu, gpus, request.texts),
    }


def _writing(study: Study, gpu: Gpu, gpus: int, texts: int) -> float:
    """Three models write texts for three splits in batches of 64: a token takes twice the launches of a forward pass, as
    beams are put in order, and the weights are read.
    """
    layers = 1.5 * study.size.decoder or study.size.layers
    token = 2 * gpu.launch * layers + 2 * study.size.parameters() / gpu.bandwidth
    return 9 * math.ceil(texts / (64 * gpus)) * study.generated * token


def memory(
    study: Study,
    gpus: int,
    request: Request,
    chunk: float = 2**24,
    micro_tokens: int | None = None,
    mixed: bool = True,
    fused: bool = True,
) -> float:
    """Bytes on each GPU at the most: state, activations of the longest batch of any stage, three tables of a ``chunk`` of
    numbers for the vocabulary; without caches the three frozen models, too
    (adapters, where the body is shared). micro_tokens: of a forward pass.
    """
    examples = math.ceil(max(study.batch, request.batch) / gpus)
    source, target = study.padded(max(study.batch, request.batch), request.bucket).max(0)
    if micro_tokens:
        examples = max(1, min(examples, micro_tokens // int(source + target)))
    active = examples * activation_bytes(study.size, source, target, mixed, study.kept, fused)
    frozen = 3 * (4 * study.size.parameters() if study.trained is None else 2 * study.trained) if request.live else 0
    tables = 3 * 4 * min(chunk, examples * study.lengths[:, 1].max() * study.size.outputs)
    return state_bytes(study.size, study.trained) + active + tables + frozen
