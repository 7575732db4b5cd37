"""Parallel text: `SPLIT.LANG[.gz]` in two languages, where line N of one file translates line N of the other."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from datasets import Dataset, Features, Value

from kga.data.corpus import SPLITS
from kga.data.lines import digest, remembered, text_lines
from kga.errors import UserError

Sides = dict[str, Path]  # language -> file of one split

# A language tag (de, deu, de-DE, en_US, zh-Hans-CN); these suffixes look like one.
_FILE = re.compile(rf"({'|'.join(SPLITS)})\.([a-z]{{2,3}}(?:[-_][A-Za-z0-9]{{2,8}})*)(?:\.gz)?")
_NO_LANGUAGES = {"csv", "tsv", "txt", "log", "md", "gz", "bz2", "xz", "zip", "tar", "tmp", "bak"}
_FEATURES = Features({"source": Value("string"), "target": Value("string")})


@dataclass(frozen=True)
class Pair:
    """The two files of one split."""

    source: Path
    target: Path

    def __str__(self) -> str:
        return f"{self.source} and {self.target.name}"


def find_sides(folder: Path, key: str) -> dict[str, Sides]:
    """The files of each split that are named as parallel text is.

    Raises:
        UserError: one side is there twice; `key` is the config key that names the folder.
    """
    found: dict[str, Sides] = {}
    for file in sorted(folder.iterdir()):
        match = _FILE.fullmatch(file.name)
        if not match or match[2] in _NO_LANGUAGES or not file.is_file():
            continue
        sides = found.setdefault(match[1], {})
        if match[2] in sides:
            raise UserError(f"{key}={folder}: {sides[match[2]].name} and {file.name} are the same side: keep one")
        sides[match[2]] = file
    return {split: found[split] for split in SPLITS if split in found}


def choose_pairs(
    where: str, sides: dict[str, Sides], source: str | None, target: str | None
) -> tuple[dict[str, Pair], str | None]:
    """Which file of each split is the source and which the target; a note if it was not given.

    Args:
        where: what to call the folder in errors.
        sides: as `find_sides` gives them, at least one split.
        source: its language; as `target`, None takes what is left, in alphabetical order.

    Raises:
        UserError: a language is missing, or there are too many to choose by themselves.
    """
    if source is not None and source == target:
        raise UserError(f"data.source_lang={source} and data.target_lang={target}: name two languages")
    for split, files in sides.items():
        for option, language in (("source_lang", source), ("target_lang", target)):
            if language is not None and language not in files:
                raise UserError(f"data.{option}={language}: {where} has {split} in {', '.join(files)} only")
    chosen = {split: _languages(where, split, files, source, target) for split, files in sides.items()}
    leading, (first, second) = next(iter(chosen.items()))
    for split, languages in chosen.items():
        if languages != [first, second]:
            raise UserError(
                f"{where}: {leading} is in {first} and {second}, but {split} in {' and '.join(sides[split])}: give all "
                "splits in the same two"
            )
    pairs = {split: Pair(files[first], files[second]) for split, files in sides.items()}
    if source is not None or target is not None:
        return pairs, None
    note = (
        f"Translated from {first} to {second}: the languages were found from the files, in alphabetical order "
        "(data.source_lang and data.target_lang choose)."
    )
    return pairs, note


def _languages(where: str, split: str, files: Sides, source: str | None, target: str | None) -> list[str]:
    """Source and target language of one split."""
    if source is not None and target is not None:
        return [source, target]
    if len(files) == 1:
        (file,) = files.values()
        raise UserError(f"{where}: {file.name} has no other side: add {split} in the other language")
    if len(files) > 2:
        raise UserError(
            f"{where}: {split} is in {len(files)} languages ({', '.join(files)}): choose two with data.source_lang and "
            "data.target_lang"
        )
    first = source or next(language for language in sorted(files) if language != target)
    return [first, next(language for language in files if language != first)]


def read_pair(pair: Pair) -> Dataset:
    """A table of source and target; it stays in the cache of `datasets`, known by the content of both files.

    Raises:
        UserError: the files have no lines or not equally many, or one is empty or broken; with file and line.
    """
    # Here and not while the table is made: `datasets` would hide the message behind its own.
    remembered(digest([pair.source, pair.target], "checked"), lambda: _check_lines(pair))
    return Dataset.from_generator(
        _rows,
        features=_FEATURES,
        gen_kwargs={"source": pair.source, "target": pair.target},
        fingerprint=digest([pair.source, pair.target], "parallel"),
    )


def _rows(source: Path, target: Path) -> Iterator[dict[str, str]]:
    for first, second in zip(text_lines(source), text_lines(target), strict=True):
        yield {"source": first, "target": second}


def _check_lines(pair: Pair) -> None:
    number = 0
    lines = enumerate(zip_longest(text_lines(pair.source), text_lines(pair.target)), start=1)
    for number, texts in lines:
        if None in texts:
            shorter, longer = (pair.source, pair.target) if texts[0] is None else (pair.target, pair.source)
            raise UserError(
                f"{shorter}:{number}: {shorter.name} ends after {number - 1} lines, but {longer.name} has "
                f"{number + sum(1 for _ in lines)}: line N of one must translate line N of the other"
            )
        for file, side, text in zip((pair.source, pair.target), ("source", "target"), texts, strict=True):
            if not text.strip():
                raise UserError(f"{file}:{number}: the {side} is empty: fill the line, or take it out of both files")
    if not number:
        raise UserError(f"{pair}: no examples: fill the files or take them away")
