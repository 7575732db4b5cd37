"""What generated texts are worth, by sacreBLEU. ``update`` takes texts; ``compute`` gives a dictionary of numbers.

The states are sums of counts, and hashes: processes can add up or gather those, but not strings.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from sacrebleu import BLEU, CHRF, extract_word_ngrams
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

ORDERS = (1, 2, 3, 4)
DISTINCT_ORDERS = (1, 2)
SMOOTHING = "exp"


class _SummedCHRF(CHRF):
    """chrF in two halves, so that counts can be added up over batches and processes.

    sacreBLEU has no public way to either half. These are the methods that each of its metrics implements, so the score
    stays its own: a second implementation could drift away from the version that the signature names.
    """

    def counts(self, outputs: Sequence[str], references: Sequence[str]) -> list[int]:
        """[3 * orders] for each order: n-grams of the outputs, of the references, and common to both."""
        rows = self._extract_corpus_statistics(outputs, [references])
        return [sum(column) for column in zip(*rows, strict=True)]

    def score(self, counts: list[int]) -> float:
        return self._compute_score_from_stats(counts).score


# The references given here are never scored against: their number, 1, is what the signatures need to know.
_BLEU = BLEU(tokenize="13a", smooth_method=SMOOTHING, max_ngram_order=ORDERS[-1], references=[[""]])
_CHRF = _SummedCHRF(references=[[""]])


class _TextQuality(Metric):
    """The counts of corpus BLEU: correct [4] and total [4] n-grams, tokens on both sides, number of texts.

    ``update`` takes texts as they are read, neither tokenised nor lower-cased, one reference to each output, and raises a
    ValueError where their numbers differ. ``compute`` raises a ValueError when there were no texts at all.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("correct", (4,)), ("total", (4,)), ("output_tokens", ()), ("reference_tokens", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("texts", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        if len(outputs) != len(references):
            raise ValueError(f"expected one reference to each output, got {len(references)} to {len(outputs)}")
        if outputs:
            self._add(outputs, references)

    def _add(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        """Counts one batch of at least one text."""
        score = _BLEU.corpus_score(outputs, [references])
        self.correct += self.correct.new_tensor(score.counts)
        self.total += self.total.new_tensor(score.totals)
        self.output_tokens += score.sys_len
        self.reference_tokens += score.ref_len
        self.texts += len(outputs)

    def _bleu(self, order: int) -> Tensor:
        """Cumulative BLEU up to an order, 0..100."""
        if not self.texts:
            raise ValueError(f"{type(self).__name__}: no texts to score, as update was never called with any")
        score = BLEU.compute_bleu(
            self.correct[:order].tolist(),
            self.total[:order].tolist(),
            int(self.output_tokens),
            int(self.reference_tokens),
            smooth_method=SMOOTHING,
            max_ngram_order=order,
        )
        return self._number(score.score)

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.texts.device)


class TranslationQuality(_TextQuality):
    """Corpus BLEU (13a tokens, case kept) and corpus chrF against one reference each, 0..100."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        counts = torch.zeros(3 * CHRF.CHAR_ORDER, dtype=torch.int64)
        self.add_state("characters", counts, dist_reduce_fx="sum")

    def _add(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        super()._add(outputs, references)
        self.characters += self.characters.new_tensor(_CHRF.counts(outputs, references))

    def compute(self) -> dict[str, Tensor]:
        return {"bleu": self._bleu(ORDERS[-1]), "chrf": self._number(_CHRF.score(self.characters.tolist()))}

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's signatures: how the numbers of ``compute`` came about."""
        return {"bleu": str(_BLEU.get_signature()), "chrf": str(_CHRF.get_signature())}


class ResponseQuality(_TextQuality):
    """BLEU-1 to BLEU-4, variety and length of responses, all over 13a tokens with case kept.

    bleu_n: cumulative corpus BLEU up to order n, 0..100, with brevity penalty; sacreBLEU's smoothing counts the first
    order without a match as half a match, the next as a quarter, ... distinct_n: different n-grams over all n-grams of
    all outputs (not the mean over outputs), 0..1 (Li et al., 2016); 0 where there is no n-gram. length: mean tokens of an
    output.
    """

    def __init__(self) -> None:
        super().__init__()
        for order in DISTINCT_ORDERS:
            self.add_state(f"distinct_{order}", [], dist_reduce_fx="cat")

    def _add(self, outputs: Sequence[str], references: Sequence[str]) -> None:
        super()._add(outputs, references)
        tokens = [_BLEU.tokenizer(output.rstrip()).split() for output in outputs]
        for order in DISTINCT_ORDERS:
            grams = set().union(*(extract_word_ngrams(line, order) for line in tokens))
            getattr(self, f"distinct_{order}").append(self.texts.new_tensor([_hashed(gram) for gram in grams]))

    def sync(self, *args, **kwargs) -> None:
        # A process that had no texts must gather "none" as integers, too: torchmetrics makes floats of an empty list.
        for order in DISTINCT_ORDERS:
            hashes = getattr(self, f"distinct_{order}")
            if isinstance(hashes, list):
                hashes.append(self.texts.new_zeros(0))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        values = {f"bleu_{order}": self._bleu(order) for order in ORDERS}
        for order in DISTINCT_ORDERS:
            different = dim_zero_cat(getattr(self, f"distinct_{order}")).unique().numel()
            values[f"distinct_{order}"] = self._number(different / max(1, int(self.total[order - 1])))
        return values | {"length": self.output_tokens.double() / self.texts}

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's signatures: how the BLEUs of ``compute`` came about (the order is in the name alone)."""
        return {f"bleu_{order}": str(_BLEU.get_signature()) for order in ORDERS}


def _hashed(gram: str) -> int:
    """64 bits that stand for an n-gram; the same in every process, unlike ``hash``."""
    return int.from_bytes(blake2b(gram.encode(), digest_size=8).digest(), signed=True)
