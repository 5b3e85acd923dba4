"""What an unknown word is answered with."""

from recoach.errors import suggestion


def test_the_nearest_word_is_named_in_its_own_case():
    assert suggestion("userid", ["UserID", "ItemID"]) == "did you mean 'UserID'?"


def test_where_nothing_is_near_all_are_named():
    assert suggestion("qqq", ["b", "a"]) == "there are a, b."
