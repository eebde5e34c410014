"""Benchmarks of region captioning; :mod:`.base` says what one is, :mod:`.registry` lists them."""
