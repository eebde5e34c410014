"""Vision towers and projectors, each accepting an additive mask embedding."""
