"""The command line (floor 6): ``describe``, ``ask``, ``segment``, ``info``, ``train``, ``eval``.

Commands import what they run when they run, so that ``fastregion --help`` needs neither torch nor
transformers.
"""

from fastregion.cli.app import main

__all__ = ["main"]
