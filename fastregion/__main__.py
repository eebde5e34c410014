"""``python -m fastregion``."""

from fastregion.cli import main

if __name__ == "__main__":
    main()
