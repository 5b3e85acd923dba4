"""The order of event types, and which of them are negative."""

from collections.abc import Sequence

from recoach.errors import DataError, clipped, listed

_STAGES = (
    "skip dislike hide not_interested unlike undislike hate report",
    "return refund cancel remove_from_cart removefromcart unfollow",
    "impression exposure show display",
    "view click clicks pv ipv detail page_view view_item item_view play implicit shelf",
    "listen read watch open long_view",
    "rating explicit",
    "like love fav favorite favourite bookmark wishlist collect save add_to_wishlist",
    "comment share follow forward download",
    "cart carts addtocart add_to_cart add-to-cart basket",
    "checkout begin_checkout add_payment_info",
    "purchase buy order orders transaction sale conversion pay",
)
"""Usual names of event types in lower case, from the weakest sign of interest to the strongest."""
_STAGE = {name: stage for stage, names in enumerate(_STAGES) for name in names.split()}
MAX_DETECTED_TYPES = 100


def ordered_types(found: Sequence[str], declared: Sequence[str]) -> tuple[str, ...]:
    """Return the event types in order, names as in the log.

    The declared order decides. Without one, types whose names are all usual ones are ordered from
    views to purchases; other types keep the order of `found`, their first appearance.
    """
    if declared:
        return tuple(declared)
    if all(name.lower() in _STAGE for name in found):
        return tuple(sorted(found, key=lambda name: _STAGE[name.lower()]))
    return tuple(found)


def check_negative_events(negative_events: Sequence[str], types: Sequence[str]) -> None:
    """Raise a DataError for a negative event that is no event type of the log."""
    for name in negative_events:
        if name not in types:
            raise DataError(
                f"negative_events: the log has no event type {clipped(repr(name), 80)}. Its event "
                f"types are {listed(types)}. Correct the name, or declare all types with events."
            )
