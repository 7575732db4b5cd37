"""Text quality against sacreBLEU's own corpus functions, small counters written here, and arithmetic by hand."""

import copy
import json
import logging
import math
import pickle
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from kga.metrics.text import ResponseQuality, TranslationQuality

OUTPUTS = [
    "The house is big, isn't it?",
    "Das Haus ist groß; oder etwa nicht?",
    'He said: "I paid 3.50 euros (1,000 cents)!"',
    "Er sagte, dass er - am 3. Mai - nicht kommt.",
    "",
    "ich weiß es nicht",
    "Well-known &amp; loved: Straßenbahn, U-Bahn...",
    "No.  ",
]
REFERENCES = [
    "The house is large, is it not?",
    "Das Haus ist groß, oder nicht?",
    'He said: "I have paid 3.50 euros (1,000 cents)."',
    "Er sagte, dass er am 3. Mai nicht kommt.",
    "Nothing came out here.",
    "Ich weiß es nicht.",
    "Well-known and loved: Straßenbahn, U-Bahn.",
    "No.",
]
CUTS = [[8], [1, 7], [3, 3, 2], [1] * 8]

WORDS = st.lists(st.sampled_from(["the", "a", "cat", "sat", "The"]), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12)

WORKER = """
import json, sys
import torch.distributed as dist
from kga.metrics.text import ResponseQuality, TranslationQuality

folder, rank = sys.argv[1], int(sys.argv[2])
outputs, references = json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
for share in (3, len(outputs)):
    mine = slice(0, share) if rank == 0 else slice(share, None)
    values = {}
    for metric in (TranslationQuality(), ResponseQuality()):
        if outputs[mine]:
            metric.update(outputs[mine], references[mine])
        values |= {name: value.item() for name, value in metric.compute().items()}
    print(json.dumps(values))
dist.destroy_process_group()
"""


def fed(metric, outputs, references, sizes=None) -> dict[str, float]:
    start = 0
    for size in sizes or [len(outputs)]:
        metric.update(outputs[start : start + size], references[start : start + size])
        start += size
    return {name: value.item() for name, value in metric.compute().items()}


def grams(tokens: list[str], order: int) -> Counter:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))


def bleu_of_words(pairs: list[tuple[str, str]], order: int) -> float:
    """Corpus BLEU, 0..1, of texts whose tokens are their words; the k-th order without a match counts 2^-k matches."""
    pairs = [(output.split(), reference.split()) for output, reference in pairs]
    logs, missed = [], 0
    for n in range(1, order + 1):
        total = sum(grams(output, n).total() for output, _ in pairs)
        correct = sum((grams(output, n) & grams(reference, n)).total() for output, reference in pairs)
        if not total or (n == 1 and not correct):
            return 0.0
        missed += not correct
        logs.append(math.log((correct or 0.5**missed) / total))
    given_length, true_length = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return math.exp(min(0, 1 - true_length / given_length) + sum(logs) / order)


@pytest.mark.parametrize("sizes", CUTS)
def test_translation_is_sacrebleus_corpus_score_however_it_is_cut(sizes):
    found = fed(TranslationQuality(), OUTPUTS, REFERENCES, sizes)
    assert found == {
        "bleu": sacrebleu.corpus_bleu(OUTPUTS, [REFERENCES]).score,
        "chrf": sacrebleu.corpus_chrf(OUTPUTS, [REFERENCES]).score,
    }
    assert 30 < found["bleu"] < 70 and 60 < found["chrf"] < 90


@pytest.mark.parametrize("sizes", CUTS)
def test_response_bleu_is_sacrebleus_of_each_order_however_it_is_cut(sizes):
    found = fed(ResponseQuality(), OUTPUTS, REFERENCES, sizes)
    for order in (1, 2, 3, 4):
        expected = sacrebleu.BLEU(tokenize="13a", max_ngram_order=order).corpus_score(OUTPUTS, [REFERENCES]).score
        assert found[f"bleu_{order}"] == expected
    whole = fed(ResponseQuality(), OUTPUTS, REFERENCES)
    assert found == whole


def test_bleu_by_hand():
    """13a tokens, outputs against references:

    the cat sat on the mat .   (7)   the cat is on the mat .   (7)
    Yes , I do .               (5)   Yes , I do like it .      (7)

    1-grams:  6 of 7 (not: sat)                                     5 of 5   together 11/12
    2-grams:  4 of 6 (the cat, on the, the mat, mat .)              3 of 4             7/10
    3-grams:  2 of 5 (on the mat, the mat .)                        2 of 3             4/8
    4-grams:  1 of 4 (on the mat .)                                 1 of 2             2/6
    brevity:  12 tokens against 14: exp(1 - 14/12)
    """
    outputs = ["the cat sat on the mat.", "Yes, I do."]
    found = fed(ResponseQuality(), outputs, ["the cat is on the mat.", "Yes, I do like it."])
    brevity = math.exp(1 - 14 / 12)
    assert found["bleu_1"] == pytest.approx(100 * brevity * 11 / 12)
    assert found["bleu_2"] == pytest.approx(100 * brevity * (11 / 12 * 7 / 10) ** (1 / 2))
    assert found["bleu_3"] == pytest.approx(100 * brevity * (11 / 12 * 7 / 10 * 4 / 8) ** (1 / 3))
    assert found["bleu_4"] == pytest.approx(100 * brevity * (11 / 12 * 7 / 10 * 4 / 8 * 2 / 6) ** (1 / 4))


def test_chrf_by_hand():
    """Spaces aside, abc against abd: 1-grams 2 of 3, 2-grams 1 of 2, 3-grams 0 of 1 on both sides, no longer ones.

    Mean precision = mean recall = (2/3 + 1/2 + 0) / 3 = 7/18, and so is their F.
    """
    assert fed(TranslationQuality(), ["a bc"], ["ab d"])["chrf"] == pytest.approx(100 * 7 / 18)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_bleu_is_an_independent_counters(pairs):
    found = fed(ResponseQuality(), *map(list, zip(*pairs, strict=True)))
    for order in (1, 2, 3, 4):
        assert found[f"bleu_{order}"] == pytest.approx(100 * bleu_of_words(pairs, order), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(0, 12))
def test_distinct_and_length_are_an_independent_counters(pairs, cut):
    outputs, references = map(list, zip(*pairs, strict=True))
    cut = min(cut, len(pairs))
    found = fed(ResponseQuality(), outputs, references, [cut, len(pairs) - cut])
    words = [output.split() for output in outputs]
    for order, lists in ((1, words), (2, [list(pairwise(line)) for line in words])):
        every = [gram for line in lists for gram in line]
        assert found[f"distinct_{order}"] == (len(set(every)) / len(every) if every else 0.0)
    assert found["length"] == pytest.approx(sum(map(len, words)) / len(words))


@pytest.mark.parametrize("sizes", [[3], [1, 2], [1, 1, 1]])
def test_distinct_by_hand(sizes):
    """Pooled over the outputs: I do not know . (5)   I do . (3)   Do I ? (3)

    Of 11 tokens 7 differ: I, do, not, know, ., Do, ?; of 4 + 2 + 2 bigrams all but the second "I do", 7 of 8. The mean
    of each output's own would be 1.
    """
    outputs = ["I do not know.", "I do.", "Do I?"]
    found = fed(ResponseQuality(), outputs, ["", "", ""], sizes)
    assert found["distinct_1"] == pytest.approx(7 / 11)
    assert found["distinct_2"] == pytest.approx(7 / 8)
    assert found["length"] == pytest.approx(11 / 3)


def test_bigrams_do_not_cross_outputs():
    assert fed(ResponseQuality(), ["a b", "a b", "c", "a b"], [""] * 4)["distinct_2"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("output", "tokens"),
    [
        ("Das ist gut, oder?", 6),  # Das ist gut , oder ?
        ("It costs 3.50 euros - really!", 7),  # It costs 3.50 euros - really !
        ("Straßenbahn (U-Bahn).", 5),  # Straßenbahn ( U-Bahn ) .
        ("a\nb \n", 2),
    ],
)
def test_length_is_in_13a_tokens(output, tokens):
    assert fed(ResponseQuality(), [output, ""], ["", ""])["length"] == tokens / 2


def test_case_and_umlauts_count():
    exact = "Die Tür ist zu, Frau Müller!"
    for other in (exact.lower(), exact.replace("ü", "u")):
        found = fed(TranslationQuality(), [other], [exact])
        assert 0 < found["bleu"] < 60 and 0 < found["chrf"] < 95
    assert fed(TranslationQuality(), [exact], [exact]) == pytest.approx({"bleu": 100, "chrf": 100})
    assert fed(ResponseQuality(), ["the The THE"], [exact])["distinct_1"] == 1


@pytest.mark.parametrize("references", [["something", "else, too"], ["", ""]])
def test_nothing_was_generated(references):
    assert fed(TranslationQuality(), ["", ""], references) == {"bleu": 0, "chrf": 0}
    assert set(fed(ResponseQuality(), ["", "  "], references).values()) == {0.0}


def test_outputs_shorter_than_the_order():
    found = fed(ResponseQuality(), ["Yes", "No"], ["Yes", "No"])
    assert found == pytest.approx(
        {"bleu_1": 100, "bleu_2": 0, "bleu_3": 0, "bleu_4": 0, "distinct_1": 1, "distinct_2": 0, "length": 1}
    )


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("kind", [TranslationQuality, ResponseQuality])
def test_without_texts_there_is_no_value(kind):
    metric = kind()
    with pytest.raises(ValueError, match=f"{kind.__name__}: no texts"):
        metric.compute()
    metric.update([], [])
    with pytest.raises(ValueError, match="no texts"):
        metric.compute()
    assert fed(metric, ["a"], ["a"])


@pytest.mark.parametrize("kind", [TranslationQuality, ResponseQuality])
def test_one_reference_to_each_output(kind):
    metric = kind()
    with pytest.raises(ValueError, match="got 1 to 2"):
        metric.update(["a", "b"], ["a"])


@pytest.mark.parametrize("kind", [TranslationQuality, ResponseQuality])
def test_reset_forgets_and_copies_remember(kind):
    metric = kind()
    before = fed(metric, OUTPUTS[:3], REFERENCES[:3])
    copies = [copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    rest = fed(metric, OUTPUTS[3:], REFERENCES[3:])
    assert rest == fed(kind(), OUTPUTS, REFERENCES) and rest != before
    for other in copies:
        assert {name: value.item() for name, value in other.compute().items()} == before
        assert fed(other, OUTPUTS[3:], REFERENCES[3:]) == rest
        assert other.signatures() == metric.signatures()
    metric.reset()
    assert fed(metric, OUTPUTS[:3], REFERENCES[:3]) == before


@pytest.mark.parametrize("kind", [TranslationQuality, ResponseQuality])
def test_computing_in_between_changes_nothing(kind):
    metric = kind()
    for start in range(len(OUTPUTS)):
        metric.update(OUTPUTS[start : start + 1], REFERENCES[start : start + 1])
        now = {name: value.item() for name, value in metric.compute().items()}
        assert now == fed(kind(), OUTPUTS[: start + 1], REFERENCES[: start + 1])


def test_the_state_holds_no_text():
    metric = ResponseQuality()
    fed(metric, ["Geheimnis wird vergessen"], ["Geheimnis bleibt"])
    assert b"Geheimnis" not in pickle.dumps(metric)


def test_two_processes_are_one(tmp_path):
    """Once with 3 and 5 texts, once with all and none; the processes salt ``hash`` differently."""
    texts = json.dumps([OUTPUTS, REFERENCES])
    commands = [[sys.executable, "-c", WORKER, str(tmp_path), rank, texts] for rank in "01"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    try:
        printed = [worker.communicate(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    expected = fed(TranslationQuality(), OUTPUTS, REFERENCES) | fed(ResponseQuality(), OUTPUTS, REFERENCES)
    for out, err in printed:
        assert [json.loads(line) for line in out.splitlines()] == [expected, expected], err.decode()


def test_signatures_are_sacrebleus():
    metric = TranslationQuality()
    fed(metric, OUTPUTS, REFERENCES)
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    for scorer in (bleu, chrf):
        scorer.corpus_score(OUTPUTS, [REFERENCES])
    expected = {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
    assert metric.signatures() == expected
    assert f"tok:13a|smooth:exp|version:{sacrebleu.__version__}" in expected["bleu"]
    assert "nc:6|nw:0" in expected["chrf"] and f"version:{sacrebleu.__version__}" in expected["chrf"]
    assert ResponseQuality().signatures() == {f"bleu_{order}": expected["bleu"] for order in (1, 2, 3, 4)}


def test_sacrebleu_still_warns_of_tokenised_text(caplog):
    with caplog.at_level(logging.WARNING, logger="sacrebleu"):
        fed(ResponseQuality(), ["a b ."] * 100, ["a b."] * 100)
    assert "forgot to detokenize" in caplog.text
