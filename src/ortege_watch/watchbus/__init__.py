"""The watch-bus: signed alerts about blockchain entities, in both directions."""
