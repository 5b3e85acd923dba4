"""The sentence that follows an unknown name in an error message."""

from recoach.errors import suggestion


def test_the_closest_name_is_suggested_as_it_is_written():
    assert suggestion("userid", ["UserID", "ItemID"]) == "Did you mean 'UserID'?"


def test_all_names_are_listed_if_none_is_close():
    assert suggestion("qqq", ["b", "a"]) == "Choose one of a, b."


def test_long_and_unprintable_names_are_cut_and_stay_on_one_line():
    message = suggestion("qqq", ["x" * 10_000, "a\nb", *(f"column {n}" for n in range(1000))])
    assert len(message) < 700
    assert message.startswith("Choose one of 'a\\nb', column 0, ")
    assert len(suggestion("x" * 10_000, ["x" * 9_999])) < 300
