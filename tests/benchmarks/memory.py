"""Peak memory of tensors on the CPU, as torch's allocator reports it to the profiler."""

import gc
import json
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

MARK = "benchmark: measured from here to there"


def peak_bytes(run: Callable[[Callable[[], AbstractContextManager]], object]) -> int:
    """The most bytes that tensors made by ``run`` held at once inside a context that it is given and enters once.

    What ``run`` allocates before it enters the context counts as far as it still lives then: models, optimiser states.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run(lambda: record_function(MARK))
    del kept
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))
        events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    marked = next(event for event in events if event["name"] == MARK)
    start, end = marked["ts"], marked["ts"] + marked["dur"]
    held, peak = 0, 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        if event["ts"] >= start:
            peak = max(peak, held)
        if event["ts"] > end:
            break
        held += event["args"]["Bytes"]
        if event["ts"] >= start:
            peak = max(peak, held)
    return peak
