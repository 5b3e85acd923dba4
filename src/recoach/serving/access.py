"""Who may use a service: its key, the address it listens on and the host names it answers to."""

import ipaddress
from collections.abc import Sequence

from recoach.errors import ConfigError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def checked_key(value: str | None, source: str) -> str | None:
    """Return an API key that callers can send; None if there is none.

    Args:
        value: the key; None if it is not set.
        source: the name of the setting, for messages.

    Raises:
        ConfigError: the key is empty or holds a character that a header cannot carry.
    """
    if value is None:
        return None
    if not value.strip():
        raise ConfigError(
            f"{source} is set to an empty key, with which nobody or everybody would be let in. "
            "Set a key, or unset it."
        )
    if any(not "!" <= character <= "~" for character in value):
        raise ConfigError(
            f"{source} holds a blank or a character outside ASCII, which callers cannot send. Use "
            "letters, digits and punctuation."
        )
    return value


def check_public(host: str, *, has_key: bool, no_key: bool) -> None:
    """Check that a service without a key listens on this machine only, unless told otherwise.

    Raises:
        ConfigError: the host is not a local address and there is neither a key nor `no_key`.
    """
    if not (has_key or no_key or is_local(host)):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and there is no key. Set "
            "RECOACH_API_KEY, or add --no-key to serve everybody."
        )


def is_local(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def allowed_hosts(host: str, names: Sequence[str]) -> list[str]:
    """Return the host names that requests may be addressed to; "*" for all.

    A page of another site can make a browser send requests to a local service under a name of its
    own (DNS rebinding), so that a local service answers to local names only.
    """
    if names:
        return list(names)
    return [*_LOCAL_NAMES, host] if is_local(host) else ["*"]
