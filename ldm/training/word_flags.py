"""trainer.py's flags for learning a word, as LDM's textual inversion has them, and the keys of a config that they set."""

from __future__ import annotations

from argparse import Namespace
from typing import cast

from omegaconf import DictConfig, OmegaConf

from ldm.util.errors import ConfigError

# Flag -> the key that it sets; the first two are of the only entry of model.params.words.
WORD_FLAGS = {"placeholder_string": "word", "init_word": "init"}
TARGETS = (".Personalization", ".GraphWords")
FLAGS = {"data_root": "data.params.train.params.data_root", "embedding_manager_ckpt": "model.params.words_from"}


def with_word_flags(config: DictConfig, arguments: Namespace) -> DictConfig:
    """The config with the values of --data_root, --placeholder_string, --init_word and --embedding_manager_ckpt.

    Raises:
        ConfigError: the config trains several words, so that a flag could mean any of them, or is of another kind.
    """
    given = {
        flag: value for flag, value in vars(arguments).items() if value is not None and flag in {**WORD_FLAGS, **FLAGS}
    }
    if not given:
        return config
    config = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(config, resolve=False)))
    flag = next(iter(given))
    if not f"{config.model.get('target', '')}".endswith(TARGETS):
        raise ConfigError(
            f"--{flag}: the config trains no words; use configs/sd1_words.yaml, or configs/flat/graph_words.yaml"
        )
    words = config.model.params.get("words") or []
    entry = {WORD_FLAGS[name]: value for name, value in given.items() if name in WORD_FLAGS}
    if entry:
        if len(words) > 1:
            raise ConfigError(f"--{flag}: the config trains {len(words)} words; set them in model.params.words instead")
        config.model.params.words = [OmegaConf.merge(words[0] if words else {}, entry)]
    for name, key in FLAGS.items():
        if name in given:
            OmegaConf.update(config, key, given[name], force_add=True)
    return config
