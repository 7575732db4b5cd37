"""What was measured, as Markdown."""

from collections.abc import Iterator, Mapping

HOW = """\
One process runs the contenders in turn, {repeats} rounds after one that warms up; a figure is the median of the rounds with
its quartiles, a ratio that of the ratios within each round. Processor time is that of all threads: other work on the machine
lengthens it less than the clock's. Texts are random token ids whose lengths follow
contract_provisions (classification, 70 labels, an encoder of 4 layers of width 256) and multi30k (translation, 3 + 3 layers
of width 256, 8,000 entries of vocabulary); weights are random, batches hold 32 examples. An update draws one batch of D_f
and five of D_r, which are the examples counted.

- **plain**: the published loop in plain PyTorch. A_D, A_f, A_n and A* run at every update, one more batch of D_n with them;
  float32, every text padded to the limit, random order.
- **student**: forward and backward passes of A* alone in plain PyTorch, on the batches that kga draws, in kga's precision,
  without clipping and without the optimiser's step (its share is in `benchmark.json`). It computes all positions of the last
  block, of which kga leaves out those that a classifier never reads: a ratio below 1 comes of that.
- **kga**: `method=kga` at its defaults ({updates} updates), Lightning's fit from the first update to the last, with
  everything around an update; what the frozen models predict was kept before (`cache_seconds`).
  With a number of tokens: `method.optim.micro_batch_tokens`.

Memory is the peak of all tensors alive during updates (weights, gradients, optimiser states, activations, cached
predictions) as torch's allocator reports them. Scaling: D_f and the drawn part of D_r stay, the rest of D_r grows.
"""
FEW = "**Fewer than three rounds: a trial. The spread is not known; compare processor times, not those of the clock.**"
# What is asked of each contender, by world and figure: at least so many times plain, at most so many times the student.
TARGETS = {
    ("classification-128", "times_plain"): {"kga fp32": 1.8, "kga bf16": 5.5},
    ("classification-512", "times_plain"): {"kga fp32": 3.5, "kga bf16": 10},
    ("translation-48", "times_plain"): {"kga fp32": 2, "kga bf16": 5},
    ("classification-128", "times_student"): {"kga fp32": 1.1, "kga bf16": 1.1},
    ("classification-512", "times_student"): {"kga fp32": 1.1, "kga bf16": 1.1},
    ("translation-48", "times_student"): {"kga fp32": 1.25, "kga bf16": 1.25},
}
# Shares of plain's memory, with a budget of tokens.
MEMORY_TARGETS = {"kga fp32": 0.65, "kga bf16": 0.45}


def markdown(found: Mapping) -> str:
    """The document of one run of the benchmark."""
    where = found["machine"]
    lines = [
        "# Benchmark",
        "",
        f"`make bench` on {where['cpu']}, {where['threads']} threads of {where['cores']} cores, torch {where['torch']}, "
        f"transformers {where['transformers']}. All numbers: [benchmark.json](benchmark.json).",
        "",
        *([FEW, ""] if found["repeats"] < 3 else []),
        *_speed(found.get("speed", {})),
        *_memory(found.get("memory", {})),
        *_scaling(found.get("scaling", {})),
        "## How it is measured",
        "",
    ]
    return "\n".join(lines) + "\n" + HOW.format(**found)


def _speed(found: Mapping) -> Iterator[str]:
    if found:
        yield from ("## Speed", "")
        plain, bound = ("times plain", "processor time", "target"), ("time / student's", "processor time", "target")
        yield from _head("contender", "examples/s", *plain, *bound)
    for world, contenders in found.items():
        for name, figures in contenders.items():
            cells = [f"{world}: {name}", _with_spread(figures["examples_per_second"], 0)]
            for key, sign in (("times_plain", "≥"), ("times_student", "≤")):
                target = TARGETS.get((world, key), {}).get(name)
                cells += [_with_spread(figures.get(of), 2) for of in (key, f"cpu_{key}")]
                cells.append(f"{sign} {target}" if target else "")
            yield _row(*cells)
    yield ""


def _memory(found: Mapping) -> Iterator[str]:
    if found:
        yield from ("## Peak memory of tensors", "")
        yield from _head("contender", "MiB", "of plain", "target")
    for world, contenders in found.items():
        for name, size in contenders.items():
            target = MEMORY_TARGETS.get(name[:8]) if "tokens" in name else None
            share = f"{size / contenders['plain']:.2f}"
            yield _row(f"{world}: {name}", f"{size / 2**20:.0f}", share, f"≤ {target}" if target else "")
    yield ""


def _scaling(found: Mapping) -> Iterator[str]:
    for world, figures in found.items():
        yield from (f"## Growing D ({world})", "")
        yield from _head("examples of D_r", "seconds of unlearning", "seconds of caches")
        for size, run in figures["sizes"].items():
            yield _row(f"{int(size):,}", _with_spread(run["fit_seconds"], 2), _with_spread(run["cache_seconds"], 2))
        slope = {key: 100 * value for key, value in figures["slope_per_decade"].items()}
        yield from ("", f"Slope: {_with_spread(slope, 1)} % per decade (target: under 5 %).", "")


def _with_spread(figure: Mapping | None, digits: int) -> str:
    if figure is None:
        return ""
    low, median, high = (f"{figure[key]:,.{digits}f}" for key in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row("---", *["---:"] * (len(names) - 1))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
