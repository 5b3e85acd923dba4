"""Keys, public addresses and host names."""

import pytest

from recoach.errors import ConfigError
from recoach.serving.access import allowed_hosts, check_public, checked_key


@pytest.mark.parametrize("value", ["", " ", "\t\n", "a b", " key", "schlüssel", "a\n"])
def test_a_key_that_nobody_can_send_is_refused(value):
    with pytest.raises(ConfigError, match=r"^RECOACH_API_KEY"):
        checked_key(value, "RECOACH_API_KEY")


def test_other_keys_are_taken_as_they_are():
    assert checked_key("s3cret!", "KEY") == "s3cret!"
    assert checked_key(None, "KEY") is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_a_public_host_needs_a_key_or_a_word(host):
    with pytest.raises(ConfigError, match=r"there is no key.*--no-key"):
        check_public(host, has_key=False, no_key=False)
    check_public(host, has_key=True, no_key=False)
    check_public(host, has_key=False, no_key=True)
    assert allowed_hosts(host, ()) == ["*"]
    assert allowed_hosts(host, ["api.example.com"]) == ["api.example.com"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_a_local_host_needs_no_key_and_answers_to_local_names(host):
    check_public(host, has_key=False, no_key=False)
    assert allowed_hosts(host, ()) == ["localhost", "127.0.0.1", "[::1]", host]
