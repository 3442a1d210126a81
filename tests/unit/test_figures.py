"""Figures as people read them."""

import pytest

from diffrl.figures import short, without_nan


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (21.456, "", "21.46"), (-1.5, "+", "-1.50"), (0.2756, "+", "+0.276"), (0.0, "+", "+0.00"),
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
    texts = [short(0.0069, "+", beside) for beside in (65.49, 0.28, 0.02)]
    assert texts == ["+0.01", "+0.007", "+0.0069"]
    assert short(2.01, "+", 0.05) == "+2.01"
