"""What an unknown word is answered with."""

from recoach.errors import suggestion


def test_the_nearest_word_is_named_in_its_own_case():
    assert suggestion("userid", ["UserID", "ItemID"]) == "did you mean 'UserID'?"


def test_where_nothing_is_near_all_are_named():
    assert suggestion("qqq", ["b", "a"]) == "there are a, b."


def test_long_and_odd_words_are_cut_and_stay_on_one_line():
    said = suggestion("qqq", ["x" * 10_000, "a\nb", *(f"column {n}" for n in range(1000))])
    assert len(said) < 700
    assert said.startswith("there are 'a\\nb', column 0, ")
    assert len(suggestion("x" * 10_000, ["x" * 9_999])) < 300
