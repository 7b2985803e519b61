"""Check that all is right and fast on a GPU: `python scripts/gpu_check.py [minutes=10] [to=gpu_check]`.

Agreement of CPU, GPU, bf16 and compiled code; what an update and a plan wait for; what presets, backbones, planners,
acting and rendering cost; a short learning run. The most valuable comes first. Nothing runs for longer than `minutes=`,
and another start with the same `to=` goes on with what is left. Writes `gpu_check.json`, `.md` and `.png`. Without a
GPU everything runs in small on the CPU.
"""

from __future__ import annotations

from worldmodels.common.arguments import Word, parse_names, parse_path, parse_positive, parsers, split_arguments

WORDS = {
    "minutes": Word(parse_positive, "after how many to stop, whatever is left (10)"),
    "to": Word(parse_path, "the folder to write, and to go on in (gpu_check)"),
    "only": Word(parse_names, "groups of checks, as waits,updates"),
}


def main(words: list[str]) -> int:
    """Run what is left to check; return 1 where a check has failed."""
    from pathlib import Path

    from worldmodels.benchmarks.gpu_check import check
    from worldmodels.common.files import require_writable
    from worldmodels.errors import UserError, near_match

    own, rest = split_arguments(words, parsers(WORDS), required=())
    if rest:
        name = rest[0].partition("=")[0]
        raise UserError(f"gpu_check has no option {name}=.{near_match(name, WORDS)}")
    require_writable(Path(own.get("to", "gpu_check")))
    return check(**own)
