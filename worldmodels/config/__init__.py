"""The configuration: words and yaml files composed by Hydra, held against annotated options, errors in one sentence."""

from worldmodels.config.compose import config_dir, dotted_keys, is_group, load_config

__all__ = ["config_dir", "dotted_keys", "is_group", "load_config"]
