"""Response generation: who speaks (persona), what was said (history), what is answered."""

from collections.abc import Iterable, Mapping, Sequence

from torchmetrics import Metric

from kga.metrics.text import ResponseQuality
from kga.tasks.generation import Generation, joined


class Response(Generation):
    """Answers ``response`` after ``persona`` (sentences about the speaker) and ``history`` (turns, the oldest first).

    The input is persona and history, all parts with a separator between them. Where it is too long, the last
    ``history_length`` tokens of the history are kept (None: as many as fit), and as much of the persona's beginning as
    ``max_length`` leaves room for.
    """

    name = "response"
    fields = ("persona", "history", "response")

    def __init__(self, *arguments, history_length: int | None = None, **more) -> None:
        super().__init__(*arguments, **more)
        self.history_length = history_length

    def context(self, examples: Mapping[str, list]) -> list[tuple[list[int], bool]]:
        pairs = zip(examples["persona"], examples["history"], strict=True)
        return [self._joined(self.pieces(persona), self.pieces(history)) for persona, history in pairs]

    def _joined(self, persona: Sequence[list[int]], history: Sequence[list[int]]) -> tuple[list[int], bool]:
        room = self.room(self.max_length)
        turns, about = joined(history, self.separator), joined(persona, self.separator)
        kept = turns[max(0, len(turns) - min(self.history_length or room, room)) :]
        left = max(0, room - len(kept) - bool(kept))  # a separator, where there is something to separate
        ids = joined([part for part in (about[:left], kept) if part], self.separator)
        return ids, len(kept) < len(turns) or left < len(about)

    def encoding(self) -> dict:
        return super().encoding() | {"history_length": self.history_length}

    def text_metrics(self) -> list[Metric]:
        return [ResponseQuality()]

    @staticmethod
    def texts(columns: Mapping[str, list]) -> Iterable[str]:
        for persona, history, response in zip(*(columns[name] for name in Response.fields), strict=True):
            yield from (*persona, *history, response)
