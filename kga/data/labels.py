"""The names of labels in a data set."""

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from kga.data.corpus import column
from kga.errors import UserError


def label_names(dataset: Dataset) -> list[str]:
    """All labels that occur, sorted."""
    values = column(dataset, "label")
    flat = pc.list_flatten(values) if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) else values
    return sorted(flat.unique().to_pylist())


def require_known(dataset: Dataset, known: list[str], where: str, source: str) -> None:
    """UserError if a label occurs that a model was not (or will not be) trained on."""
    unknown = [name for name in label_names(dataset) if name not in set(known)]
    if unknown:
        raise UserError(
            f"{where} has {len(unknown)} labels that {source} lacks ({', '.join(unknown[:5])}): "
            "take those examples out, or add training examples with these labels"
        )
