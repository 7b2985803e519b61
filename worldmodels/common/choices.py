"""Words that options of the top level may be, apart from the code that reads them, which imports torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16"]
ActingPrecision = Literal["auto", "fp32", "bf16"]
Compile = Literal["auto", "cell", "whole", "off"]
Accelerator = Literal["auto", "cpu", "gpu"]
ContextMode = Literal["none", "burn_in", "latent"]
ContextOption = Literal["auto", "none", "burn_in", "latent"]
