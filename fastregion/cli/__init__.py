"""The command line: ``fastregion describe``, ``ask``, ``info``, ``train``, ``eval`` (floor 6).

Commands import what they run when they run, so that ``fastregion --help`` needs neither torch nor
transformers.
"""

from fastregion.cli.app import main

__all__ = ["main"]
