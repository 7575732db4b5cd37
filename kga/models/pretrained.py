"""Pretrained models: a name on the hub or a folder."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kga.errors import UserError
from kga.models.scratch import auto_class, seeded

# What transformers and the tokenizers raise for folders that lack files or hold broken ones.
UNLOADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)


class Pretrained:
    """Any backbone that the task's Auto class loads, with its own tokenizer; a head that it lacks is drawn at random.

    name: hub name or folder. revision: branch, tag or commit on the hub.
    """

    def __init__(
        self, name: str, max_length: int, revision: str | None = None, recommended: dict | None = None
    ) -> None:
        self.name, self.revision, self.max_length = name, revision, max_length
        looks_local = name.startswith(("/", "./", "../", "~")) or Path(name).exists()
        if looks_local and not (Path(name).expanduser() / "config.json").is_file():
            raise UserError(
                f"model.name={name} is no model folder: it has no config.json; give a hub name or a saved model"
            )
        self._source = str(Path(name).expanduser()) if looks_local else name

    def tokenizer_recipe(self) -> None:
        """None: the tokenizer comes with the model and is not trained."""

    def tokenizer(self, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerBase:
        tokenizer = self._loaded(AutoTokenizer.from_pretrained)
        require_vocabulary(tokenizer, self._loaded(AutoConfig.from_pretrained), f"model.name={self.name}")
        return tokenizer

    def model(
        self, task: type, tokenizer: PreTrainedTokenizerBase, head: dict, seed: int, scratch: bool = False
    ) -> PreTrainedModel:
        """The pretrained model with a head drawn from ``seed``; ``scratch``: the same architecture, all weights random."""
        if scratch:
            config = copy.deepcopy(self._loaded(AutoConfig.from_pretrained))
            config.update(head)
            return seeded(task, config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # A saved classifier of other labels keeps its backbone and gets a new head.
            kind = auto_class(task, self._loaded(AutoConfig.from_pretrained))
            return self._loaded(kind.from_pretrained, ignore_mismatched_sizes=True, dtype=torch.float32, **head)

    def _loaded(self, load: Callable, **entries):
        try:
            return load(self._source, revision=self.revision, **entries)
        except UNLOADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"model.name={self.name} can't be loaded ({reason}): check the name, or give a folder with a saved model"
            ) from error


def require_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, where: str) -> None:
    """UserError for a tokenizer of special tokens alone, as transformers makes of a folder without a tokenizer."""
    known = getattr(config, "vocab_size", None) or 0
    if len(tokenizer) < known / 2:
        raise UserError(
            f"{where} has no tokenizer for its model: {len(tokenizer)} tokens were found, the model knows {known}; save "
            "the tokenizer into the same folder"
        )
