"""From rows of one format to records: one file for each format."""
