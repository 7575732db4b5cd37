"""Translation: a source text and its target text."""

from collections.abc import Iterable, Mapping

from torchmetrics import Metric

from kga.metrics.text import TranslationQuality
from kga.tasks.generation import Generation


class Translation(Generation):
    """Translates ``source`` to ``target``. Of a source that is too long the end is dropped."""

    name = "translation"
    fields = ("source", "target")

    def context(self, examples: Mapping[str, list]) -> list[tuple[list[int], bool]]:
        room = self.room(self.max_length)
        return [(ids[:room], len(ids) > room) for ids in self.pieces(examples["source"])]

    def text_metrics(self) -> list[Metric]:
        return [TranslationQuality()]

    @staticmethod
    def texts(columns: Mapping[str, list]) -> Iterable[str]:
        for source, target in zip(columns["source"], columns["target"], strict=True):
            yield from (source, target)
