"""Silences what libraries say about themselves: kga's own stages and bars tell what is going on."""

import logging
import warnings

# Advice of Lightning's that does not hold here: our loaders are no DataLoaders, modes are set by the tasks.
ADVICE = (
    "no .val_dataloader",
    "in eval mode at the start",
    "does not have many workers",
    "Checkpoint directory .* exists",
    "LeafSpec",
    "srun. command is available",
    "smaller than the logging interval",
    "resuming from a checkpoint",
    "recommended to use .*sync_dist",
)


class quiet_advice(warnings.catch_warnings):
    """Context manager around Lightning's loops; other warnings stay."""

    def __enter__(self):
        entered = super().__enter__()
        for text in ADVICE:
            warnings.filterwarnings("ignore", f".*{text}")
        return entered


def quiet_libraries() -> None:
    """For the whole process: no progress bars of transformers, no hardware reports of Lightning."""
    import transformers

    warnings.filterwarnings("ignore", ".*srun. command is available")  # at every Trainer on a login node
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
