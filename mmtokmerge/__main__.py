"""``python -m mmtokmerge VERB``: the console script where it is not on the path."""

import sys

from mmtokmerge.commands.main import console

if __name__ == "__main__":
    sys.exit(console())
