"""The cost model, its check and its predictions, as Markdown."""

from collections.abc import Mapping

from benchmarks.scale import (
    BATCH,
    BETWEEN,
    HELPER_EPOCHS,
    PEAK,
    RETAIN_BATCHES,
    SCENARIOS,
    STEP,
    UPDATES,
    WITHIN,
    Scenario,
    cached,
    checked,
    stages,
    state,
)

TURN = {
    "LEDGAR, DistilBERT": (
        "Three epochs make Retrain cheap, so that a request saves little: the helpers alone pass 40 % of D's size "
        "(`method.helpers.optim.epochs`), and updates wait for the GPU's start-up time more than for arithmetic "
        "(`trainer.compile`, larger batches). A_n is trained once for all requests. More GPUs do not shorten one request."
    ),
    "IWSLT14, 6+6 Transformer": (
        "Thirty epochs make Retrain dear and the request cheap beside it; most of it are the updates (`method.optim.updates`). "
        "`auto` keeps hidden states; `optim.batch_tokens` cuts the padding of A_D's and the helpers' batches."
    ),
    "PersonaChat, BART-base": (
        "The vocabulary of 50,265 makes the output layer a large part, and `method.cache=exact` fifty times as large as "
        "`hidden`, which `auto` takes. `trainer=bf16`; `method.optim.micro_batch_tokens` where memory is short. Writing texts "
        "for the evaluation (`evaluation.generate.limit`, not in this table) soon costs more than all else."
    ),
    "7B with LoRA": (
        "Retraining an adapter for one epoch is so cheap that a request hardly saves on one GPU and loses on many: the helpers' "
        "20 epochs are too many here (`method.helpers.optim.epochs`), and caches are filled by one rank while the others wait. "
        "Live teachers (`method.cache=none`) would hold three more times 14 GB. kga has no adapters of its own yet: with all "
        "weights trained, weights, gradients and AdamW's moments take 112 GB, and `trainer=fsdp` is needed."
    ),
}


def markdown(found: Mapping) -> str:
    lines = [
        "# What it costs, and what it would cost elsewhere",
        "",
        *_model(),
        *_fit(found),
        *_predictions(),
        *_turn(),
    ]
    return "\n".join(lines) + "\n"


def _model() -> list[str]:
    return [
        "Seconds of a forward and backward pass over a batch = a x operations + b x numbers touched + c.",
        "",
        "- **Operations** of the matrix products, two for each multiply and add, the backward pass twice the forward one: a layer",
        "  of an encoder takes 2 (4 H^2 + 2 H F) S + 4 S^2 H for a text of S tokens, width H, inner width F; a decoder's also",
        "  attends to the source; the output layer takes 2 V H for each scored position. torch's own counter agrees within 3 %.",
        "- **Numbers touched**: activations that dropout, softmax, norms and activation functions walk over, attention's tables",
        "  (heads x S^2) and log-probabilities (V for each scored position) with them.",
        "- **Bytes**: weights, gradients and AdamW's moments 16 per trained weight; caches `exact` 4 C for each scored position,",
        "  `hidden` 4 H and one output layer, `topk:K` 8 K + 4.",
        f"- **A request** with KGA's defaults: A_f and A_n for {HELPER_EPOCHS} epochs on D_f and D_n; one pass of A_D and A_n over D_n, of A_f over",
        f"  D_f and of A_D over what is drawn of D_r; {UPDATES} updates of {1 + RETAIN_BATCHES} batches of {BATCH}. A_n serves all requests on one A_D.",
        "",
    ]


def _fit(found: Mapping) -> list[str]:
    lines = ["## Fitted to one core", "", "Processor seconds, relative errors by least squares; measured by `python -m benchmarks.scale` in `tests/`.", "",
             "| precision | s per 10^9 operations | s per 10^6 numbers | s per batch | median error | worst |", "| --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    rows = []
    for precision, measured in found.items():
        fit, held = checked(measured)
        a, b, c = fit["coefficients"]
        lines.append(f"| {precision} | {a:.4f} | {b:.5f} | {c:.4f} | {fit['median_error']:.0%} | {fit['worst']:.0%} |")
        for row in held:
            width, layers, source, target = row["case"]
            what = (
                f"{layers} + {layers} layers of {width}, {source} + {target} tokens"
                if target
                else f"{layers} layers of {width}, {source} tokens"
            )
            rows.append(
                f"| {what} | {precision} | {row['predicted']:.2f} | {row['measured']:.2f} | {row['error']:+.0%} |"
            )
    return [*lines, "", "Sizes that the fit has not seen (a batch of 32):", "", "| size | precision | predicted s | measured s | error |",
            "| --- | --- | ---: | ---: | ---: |", *rows, "",
            "The float32 fit may be trusted to a tenth; in bfloat16 the time per operation depends on the shapes, and the fit is off by up",
            "to two fifths.", ""]  # fmt: skip


def _predictions() -> list[str]:
    lines = [
        "## Predicted for GPUs", "",
        f"**Nothing here was measured: no GPU was at hand.** Assumed: H100 ({PEAK / 1e12:.0f} TFLOP/s in bfloat16, of which the share in the table is",
        f"reached), {WITHIN / 1e9:.0f} GB/s between GPUs of a machine, {BETWEEN / 1e9:.0f} GB/s between machines, at least {1000 * STEP:.0f} ms for an update. D_f is 1 % of D.",
        "Evaluation is that of four models without written texts. Kept: caches. State: weights, and",
        "gradients and AdamW's moments of what is trained, on each GPU with ddp (1 / n of it with fsdp); activations come on top.", "",
        "| study | GPUs | Retrain | helpers | caches | unlearning | evaluation | the request is | largest part | kept | state |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]  # fmt: skip
    for case in SCENARIOS:
        for gpus in (1, 8, 64):
            found = stages(case, gpus)
            request = found["helpers"] + found["caches"] + found["unlearning"]
            largest = max(("helpers", "caches", "unlearning"), key=found.__getitem__)
            cells = [f"{found[name]:,.0f} s" for name in ("retrain", "helpers", "caches", "unlearning", "evaluation")]
            ratio = f"{found['retrain'] / request:.1f} x faster"
            lines.append(
                f"| {_named(case)} | {gpus} | {' | '.join(cells)} | {ratio} | {largest} | {cached(case) / 1e6:,.0f} MB | {state(case) / 1e9:.1f} GB |"
            )
    return [*lines, ""]


def _named(case: Scenario) -> str:
    return f"{case.name} ({case.examples:,} examples, {case.epochs} epochs, {case.use:.0%} of the peak)"


def _turn() -> list[str]:
    lines = ["## What to turn", ""]
    for name, text in TURN.items():
        lines += [f"**{name}.** {text}", ""]
    return [
        *lines,
        "`trainer=ddp` shares out the examples of each update, so at 32 examples a batch no more than 32 GPUs have anything to do, and",
        "the time that a GPU needs to start its kernels remains. A sweep over methods, `method.alpha` and seeds is better served by",
        "independent runs: they share A_D, A_R, A_n and the caches through the store.",
    ]
