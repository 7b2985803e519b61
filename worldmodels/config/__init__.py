"""Configuration: words and yaml files composed by Hydra and held against annotated options. Nothing is built here."""

from worldmodels.config.compose import config_dir, dotted_keys, is_group, load_config

__all__ = ["config_dir", "dotted_keys", "is_group", "load_config"]
