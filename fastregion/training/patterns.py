"""Names of parameters chosen by patterns, as ``Captioner.freeze`` chooses them."""

from fastregion.models.patterns import fits, require_fit

__all__ = ["fits", "require_fit"]
