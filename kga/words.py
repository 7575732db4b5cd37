"""Forgetting of a word in what a model writes: its probability where it stood, its rate, and what took its place.

A word counts where it stands as a whole word, whatever its case.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from kga.data.encoded import Examples
from kga.predictions import Predictions
from kga.tasks.base import TaskModule

LETTER = r"[\w\u0300-\u036f]"  # of a word, also an accent that is written apart from its letter
NOTHING, REWRITTEN = "(nothing)", "(rewritten)"
BROKEN = "\N{REPLACEMENT CHARACTER}"
LONGEST = 4  # words of a substitute; where more were replaced at once, none of them stands for the word
SHOWN = 10  # substitutes of a model
SPLITS = ("forget", "nonmember")

Places = list[tuple[int, list[int]]]  # position of an example in its set, the word's tokens among those of the target


def word_analysis(
    models: Mapping[str, TaskModule], examples: Mapping[str, Examples], truths: Mapping[str, Sequence[str]],
    written: Mapping[str, Mapping[str, Sequence[str]]], ids: Sequence[str], word: str, column: str, batch_size: int = 64,
) -> dict:  # fmt: skip
    """The section ``word`` of result.json.

    models: by name, "original" among them, on the device that they are to run on. examples, truths: {split: encoded examples,
    their true targets} of "forget" and, if there are any, "nonmember". written: {model: {split: generated texts}}, of these
    or of fewer examples; ids: of the examples of ``written[...]["forget"]``. column: where the word was looked for.
    Substitutes are what a model writes on D_f where A_D writes the word; so A_D itself has none.
    """
    splits = [split for split in SPLITS if split in examples]
    task = next(iter(models.values()))
    places = {split: find_word(task, examples[split], truths[split], word) for split in splits}
    found: dict = {}
    for name, model in models.items():
        texts = written.get(name, {})
        found[name] = {
            split: statistics_at(model, examples[split], places[split], batch_size)
            | {"rate": rate(texts[split], word) if texts.get(split) else None}
            for split in splits
        }
    before = written.get("original", {}).get("forget", ())
    taken = {name: top_substitutes(before, texts["forget"], word, ids)
             for name, texts in written.items() if name != "original" and "forget" in texts}  # fmt: skip
    return {"word": word, "column": column, "models": found, "substitutes": taken}


# Probability --------------------------------------------------------------------------------------------------------


def find_word(task: TaskModule, examples: Examples, texts: Sequence[str], word: str) -> Places:
    """Where the word stands in the encoded targets. Examples that were cut are left out.

    A token is the word's if one of its characters is (a blank before the word alone is not), by what the tokens up to it
    decode to, which serves every tokenizer.
    """
    wanted, cut = pattern(word), examples.column("cut")
    places = []
    for position, text in enumerate(texts):
        wished = len(wanted.findall(text))
        if wished and not cut[position]:
            labels = examples.table[int(examples.rows[position])]["labels"]
            found = _tokens_of(task.tokenizer, labels, wanted)
            if len(found) == wished:  # else letters that the tokenizer doesn't know hide where the word is
                places += [(position, tokens) for tokens in found]
    return places


def _tokens_of(tokenizer, labels: Sequence[int], wanted: re.Pattern) -> list[list[int]]:
    """Indices into ``labels`` of the tokens of each occurrence."""
    prefixes = [labels[:end] for end in range(len(labels) + 1)]
    decoded = tokenizer.batch_decode(prefixes, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # A character of several bytes may be cut between tokens: what is there of it decodes to a mark of its own.
    spans = list(pairwise(len(text.rstrip(BROKEN)) for text in decoded))
    special = set(tokenizer.all_special_ids)
    found = []
    for match in wanted.finditer(decoded[-1]):
        first, last = match.span()
        found.append([
            index
            for index, (start, end) in enumerate(spans)
            if labels[index] not in special
            and start < last
            and (end > first or (start >= first and decoded[index + 1].endswith(BROKEN)))
        ])  # fmt: skip
    return [tokens for tokens in found if tokens]


@torch.no_grad()
def statistics_at(task: TaskModule, examples: Examples, places: Places, batch_size: int = 64) -> dict:
    """What a model thinks of a word where it stands, given the true text before it (None where it stands nowhere).

    probability: mean over occurrences of the product over the word's tokens. rank: median rank of its first token among the
    vocabulary, 1 the most probable. occurrences: their number.
    """
    task.eval()
    held = sorted({position for position, _ in places})
    probabilities, ranks = [], []
    for start in range(0, len(held), batch_size):
        chosen = held[start : start + batch_size]
        batch = {name: value.to(task.device) for name, value in examples.batch(np.array(chosen)).items()}
        truth, rank = _at_truth(task.predict(batch))
        for position, tokens in places:
            if position in chosen:
                here = chosen.index(position)
                probabilities.append(float(truth[here][tokens].sum().exp()))
                ranks.append(int(rank[here][tokens[0]]))
    return {
        "probability": float(np.mean(probabilities)) if places else None,
        "rank": float(np.median(ranks)) if places else None,
        "occurrences": len(places),
    }


def _at_truth(predictions: Predictions) -> tuple[list[Tensor], list[Tensor]]:
    """Of each example of a batch: log-probability, and rank, of the truth at its positions."""
    truths, ranks = [], []
    for _, part in predictions.parts():
        dense = part.dense()
        truth, counts = dense.truth(), dense.positions_per_example().tolist()
        truths += truth.cpu().double().split(counts)
        ranks += (1 + (dense.log_probs > truth.unsqueeze(1)).sum(1)).cpu().split(counts)
    return truths, ranks


# Texts --------------------------------------------------------------------------------------------------------------


def pattern(word: str) -> re.Pattern:
    """Matches the word as a whole word, whatever its case."""
    return re.compile(rf"(?<!{LETTER}){re.escape(word)}(?!{LETTER})", re.IGNORECASE)


def rate(texts: Sequence[str], word: str) -> float:
    """Share of texts that contain the word."""
    wanted = pattern(word)
    return float(np.mean([bool(wanted.search(text)) for text in texts]))


def substitutes(before: Sequence[str], after: Sequence[str], word: str) -> list[tuple[str, int]]:
    """(what stands in place of the word, index of the pair) for every occurrence in a text of ``before`` whose partner in
    ``after`` lacks the word.

    The texts are aligned word by word. "(nothing)": it was left out; "(rewritten)": so much was replaced at once that
    nothing stands for it.
    """
    wanted = pattern(word)
    found = []
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if wanted.search(old) and not wanted.search(new):
            found += [(substitute, index) for substitute in _in_place(_words(old), _words(new), _words(word))]
    return found


def _words(text: str) -> list[str]:
    """Words and marks."""
    return re.findall(rf"{LETTER}+|[^\w\s]", text)


def _in_place(old: list[str], new: list[str], word: list[str]) -> list[str]:
    """What of ``new`` stands where each occurrence of ``word`` stood in ``old``."""
    lower, target = ([part.lower() for part in side] for side in (old, word))
    steps = SequenceMatcher(None, lower, [part.lower() for part in new], autojunk=False).get_opcodes()
    size = len(target)
    starts = [start for start in range(len(lower) - size + 1) if lower[start : start + size] == target]
    return [_named(_image(steps, start, start + size, new)) for start in starts]


def _image(steps: Sequence[tuple], first: int, last: int, new: list[str]) -> list[str]:
    """What the words from ``first`` to ``last`` became: word for word where as many stand for as many."""
    parts = []
    for _, i1, i2, j1, j2 in steps:
        if i1 < last and i2 > first:
            alike = i2 - i1 == j2 - j1
            parts += new[j1 + max(first, i1) - i1 : j1 + min(last, i2) - i1] if alike else new[j1:j2]
    return parts


def _named(parts: Sequence[str]) -> str:
    return (" ".join(parts) or NOTHING) if len(parts) <= LONGEST else REWRITTEN


def top_substitutes(
    before: Sequence[str], after: Sequence[str], word: str, ids: Sequence[str], most: int = SHOWN
) -> list[list]:
    """[substitute, count, id of an example] of the ``most`` frequent substitutes, whatever their case; ties as they came.

    ids: of the texts.
    """
    counts: Counter[str] = Counter()
    first: dict[str, tuple[str, int]] = {}
    for substitute, index in substitutes(before, after, word):
        counts[substitute.lower()] += 1
        first.setdefault(substitute.lower(), (substitute, index))
    return [[first[name][0], count, ids[first[name][1]]] for name, count in counts.most_common(most)]
