"""Settings are immutable and refuse unknown keys, infinities and NaN."""

import pytest
from pydantic import ValidationError

from recoach.config import StrictConfig


class Settings(StrictConfig):
    rate: float = 1.0


@pytest.mark.parametrize("values", [{"rtae": 1.0}, {"rate": float("inf")}, {"rate": float("nan")}])
def test_unknown_keys_and_non_finite_numbers_are_refused(values):
    with pytest.raises(ValidationError):
        Settings(**values)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().rate = 2.0
