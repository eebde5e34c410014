"""Metrics of captions and of segmentation: one file each, all by name through ``registry``."""
