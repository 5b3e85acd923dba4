"""The demonstration of `recoach demo`: a simulated shop in which the value of lists is known."""
