"""What a refused option must tell, whatever the words around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from worldmodels.errors import UserError


@contextmanager
def refuses(option: str, value: Any) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Hold what is done within to a refusal of one option's value, in one line."""
    with pytest.raises(UserError) as caught:
        yield caught
    assert (caught.value.option, caught.value.value) == (option, value)
    assert "\n" not in str(caught.value)
