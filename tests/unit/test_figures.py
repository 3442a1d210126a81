"""Figures as people read them."""

import pytest

from diffrl.figures import short, without_nan


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (21.456, "", "21.46"), (-0.5, "+", "-0.50"), (0.5, "+", "+0.50"), (0.0, "+", "+0.00"),
        (0.00213, "", "0.0021"), (-0.0000456, "+", "-4.6e-05"), (float("nan"), "", "nan"),
    ],
)  # fmt: skip
def test_small_numbers_keep_two_digits(value, sign, text):
    assert short(value, sign) == text


def test_nan_becomes_null_wherever_it_stands():
    nan = float("nan")
    assert without_nan({"a": [1.0, nan], "b": (nan, "nan")}) == {
        "a": [1.0, None],
        "b": [None, "nan"],
    }


def test_a_small_change_of_a_large_number_has_its_decimals():
    assert (short(0.0069, "+", 65.49), short(0.0069, "+", 0.02)) == ("+0.01", "+0.0069")
