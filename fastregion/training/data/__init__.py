"""Training data: rows of any format as :class:`Record`, checked, ordered and made to batches."""

from fastregion.training.data.checks import CheckReport, check_records
from fastregion.training.data.loader import BatchLoader, Item
from fastregion.training.data.record import BadRow, Record, Turn
from fastregion.training.data.sources import DataSource, Records, open_source, open_sources

__all__ = [
    "BadRow",
    "BatchLoader",
    "CheckReport",
    "DataSource",
    "Item",
    "Record",
    "Records",
    "Turn",
    "check_records",
    "open_source",
    "open_sources",
]
