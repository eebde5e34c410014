"""Training data: rows of any format as :class:`Record`, checked and ordered."""

from fastregion.training.data.record import BadRow, Record, Turn

__all__ = ["BadRow", "Record", "Turn"]
