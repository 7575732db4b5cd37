"""Parallel text: both sides of a line become one example, and every mistake is one line with its place."""

import gzip
import os
from pathlib import Path

import datasets
import pytest

from kga.data import folder
from kga.data.corpus import SPLITS
from kga.errors import UserError

GERMAN = ["Ein Hund läuft.", "Zwei\u2028Katzen", '"Drei", sagt er', "\tVier"]
ENGLISH = ["A dog runs.", "Two cats", '"Three", he says', "Four"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(file: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


def write_splits(where: Path, suffix: str = "", languages: tuple[str, str] = ("de", "en"), splits=SPLITS) -> Path:
    """Each split has its own texts, as they may not overlap."""
    for split in splits:
        for language, lines in zip(languages, (GERMAN, ENGLISH), strict=True):
            write(where / f"{split}.{language}{suffix}", [f"{line} ({split})" for line in lines])
    return where


def pairs(table: datasets.Dataset) -> list[tuple[str, str]]:
    return list(zip(table["source"], table["target"], strict=True))


def refused(where: Path, *told: str, task: str = "translation", **options: str) -> None:
    with pytest.raises(UserError) as caught:
        folder.load(task, where, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (str(where), *told)), message


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_lines_are_pairs_and_the_languages_are_found(tmp_path, suffix):
    corpus = folder.load("translation", write_splits(tmp_path, suffix))
    for split, table in corpus.splits.items():
        expected = [(f"{de} ({split})", f"{en} ({split})") for de, en in zip(GERMAN, ENGLISH, strict=True)]
        assert pairs(table) == expected
    (note,) = corpus.notes
    assert "from de to en" in note and "alphabetical" in note
    assert corpus.train.cache_files  # memory-mapped, not in memory


@pytest.mark.parametrize(
    "options", [{"source_lang": "en"}, {"target_lang": "de"}, {"source_lang": "en", "target_lang": "de"}]
)
def test_the_languages_may_be_chosen(tmp_path, options):
    corpus = folder.load("translation", write_splits(tmp_path), **options)
    assert pairs(corpus.test)[0] == ("A dog runs. (test)", "Ein Hund läuft. (test)")
    assert not corpus.notes


def test_other_languages_are_left_alone_where_two_are_chosen(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "train.cs", ["Pes"])
    refused(tmp_path, "train is in 3 languages (cs, de, en)", "data.source_lang")
    refused(tmp_path, "3 languages", source_lang="de")
    corpus = folder.load("translation", tmp_path, source_lang="de", target_lang="en")
    assert pairs(corpus.train)[0] == ("Ein Hund läuft. (train)", "A dog runs. (train)")


@pytest.mark.parametrize("languages", [("de-DE", "en_US"), ("deu", "eng"), ("zh-Hans-CN", "en")])
def test_language_tags(tmp_path, languages):
    corpus = folder.load("translation", write_splits(tmp_path, ".gz", languages), source_lang=languages[0])
    assert pairs(corpus.train)[3] == ("\tVier (train)", "Four (train)")


def test_line_ends_and_the_mark_of_byte_order_are_no_text(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "train.de").write_bytes("\ufeffeins\r\nzwei\r\ndrei".encode())
    (tmp_path / "train.en").write_bytes(b"one\ntwo\nthree\n")
    assert pairs(folder.load("translation", tmp_path).train) == [("eins", "one"), ("zwei", "two"), ("drei", "three")]


def test_missing_splits_are_cut_and_formats_may_be_mixed(tmp_path):
    write_splits(tmp_path, splits=["train"])
    for language in ("de", "en"):
        write(tmp_path / f"train.{language}", [f"{language} {i}" for i in range(50)])
    (tmp_path / "test.jsonl").write_text('{"source": "s", "target": "t"}\n')
    corpus = folder.load("translation", tmp_path)
    assert [len(table) for table in corpus.splits.values()] == [45, 5, 1]
    assert "alphabetical" in corpus.notes[0] and "validation" in corpus.notes[1]
    assert all(source.split()[1] == target.split()[1] for source, target in pairs(corpus.train))


def test_changed_files_are_read_anew(tmp_path):
    write_splits(tmp_path)
    before = folder.load("translation", tmp_path).train
    write(tmp_path / "train.en", ["1", "2", "3", "4"])
    assert before["target"][:2] != folder.load("translation", tmp_path).train["target"][:2] == ["1", "2"]


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    expected = pairs(folder.load("translation", write_splits(tmp_path)).train)
    monkeypatch.setattr("kga.data.parallel.text_lines", lambda file: pytest.fail(f"{file} was read again"))
    assert pairs(folder.load("translation", tmp_path).train) == expected


def test_swapped_files_are_not_taken_from_the_cache(tmp_path):
    write_splits(tmp_path)
    assert pairs(folder.load("translation", tmp_path).train) == [
        (source, target) for target, source in pairs(folder.load("translation", tmp_path, source_lang="en").train)
    ]


def test_examples_held_out_may_be_parallel_text(tmp_path):
    write_splits(tmp_path, splits=["train"])
    assert pairs(folder.load_file("translation", tmp_path).train)[0][0].startswith("Ein Hund")
    swapped = folder.load_file("translation", tmp_path, source_lang="en")
    assert pairs(swapped.train)[0][0].startswith("A dog")
    assert not len(swapped.test)


LINE_MISTAKES = {
    "fewer": ("train.en", b"a\nb\n", ["train.en:3: train.en ends after 2 lines, but train.de has 4"]),
    "more": ("train.en", b"a\nb\nc\nd\ne\nf\n", ["train.de:5: train.de ends after 4 lines, but train.en has 6"]),
    "empty target": ("train.en", b"a\n \nc\nd\n", ["train.en:2: the target is empty"]),
    "empty source": ("train.de", b"a\nb\nc\n\n", ["train.de:4: the source is empty"]),
    "in test": ("test.en", b"a\n\nc\nd\n", ["test.en:2: the target is empty"]),
    "empty file": ("train.de", b"", ["train.de:1: train.de ends after 0 lines, but train.en has 4"]),
    "not UTF-8": ("train.de", "a\nb\ngrün\nd\n".encode("latin-1"), ["train.de:3: not UTF-8"]),
}


@pytest.mark.parametrize("case", LINE_MISTAKES)
def test_mistakes_in_a_line(tmp_path, case):
    name, content, told = LINE_MISTAKES[case]
    (write_splits(tmp_path) / name).write_bytes(content)
    refused(tmp_path, *told)


def test_broken_gzip(tmp_path):
    whole = gzip.compress("".join(f"{i * 7919}\n" for i in range(50_000)).encode())
    write_splits(tmp_path, ".gz")
    (tmp_path / "train.en.gz").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "train.de.gz", [str(i) for i in range(50_000)])
    refused(tmp_path, "train.en.gz:", "gzip")
    (tmp_path / "train.en.gz").write_bytes(b"plain\n")
    refused(tmp_path, "train.en.gz:1: ", "gzip")


def test_no_lines_at_all(tmp_path):
    write_splits(tmp_path)
    for language in ("de", "en"):
        (tmp_path / f"train.{language}").write_bytes(b"")
    refused(tmp_path, "train.de and train.en: no examples")


FILES = {
    "one language": (["train.de"], ["train.de has no other side"]),
    "one language in test": (["train.de", "train.en", "test.en"], ["test.en has no other side"]),
    "other languages in test": (
        ["train.de", "train.en", "test.de", "test.fr"],
        ["train is in de and en", "test in de and fr"],
    ),
    "twice": (["train.de", "train.de.gz", "train.en"], ["train.de and train.de.gz are the same side"]),
    "both forms": (["train.de", "train.en", "train.jsonl"], ["train.jsonl and train.de are the same split"]),
    "no train": (["test.de", "test.en"], ["no training file", "train.LANG"]),
    "no languages": (["train.txt", "train.md"], ["no training file", "train.LANG"]),
}


@pytest.mark.parametrize("case", FILES)
def test_mistakes_in_the_files(tmp_path, case):
    names, told = FILES[case]
    for name in names:
        (tmp_path / name).write_text("a\n")
    refused(tmp_path, *told)


def test_mistakes_in_the_options(tmp_path):
    write_splits(tmp_path)
    refused(tmp_path, "data.source_lang=fr", "train", "de, en", source_lang="fr")
    refused(tmp_path, "data.target_lang=fr", "de, en", source_lang="de", target_lang="fr")
    with pytest.raises(UserError, match=r"data\.source_lang=de and data\.target_lang=de: name two languages"):
        folder.load("translation", tmp_path, source_lang="de", target_lang="de")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "train.jsonl").write_text('{"source": "s", "target": "t"}\n')
    refused(plain, "data.source_lang", "parallel text", source_lang="de")


def test_only_translation_has_parallel_text(tmp_path):
    write_splits(tmp_path)
    refused(tmp_path, "train.de and train.en", "task=translation, not task=classification", task="classification")
    for split in SPLITS:
        (tmp_path / f"{split}.jsonl").write_text('{"text": "a", "label": "x"}\n')
    assert len(folder.load("classification", tmp_path).train) == 1  # beside their own files, they are other people's


@pytest.mark.real
@pytest.mark.skipif("KGA_REAL_DATA" not in os.environ, reason="KGA_REAL_DATA names no folder of real data")
def test_real_captions():
    corpus = folder.load("translation", Path(os.environ["KGA_REAL_DATA"]) / "multi30k_de_en")
    assert [len(table) for table in corpus.splits.values()] == [29_000, 1_014, 1_000]
    source, target = pairs(corpus.train.select([0]))[0]
    assert source.startswith("Zwei junge weiße Männer") and target.startswith("Two young, White males")
    seen = set(corpus.train[:]["input_hash"])
    assert not any(text in seen for text in corpus.test[:]["input_hash"])  # as the data's own notes say
