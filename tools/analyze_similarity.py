"""Compare tokens of the same class and of different classes (ALGM, figure 2): ``mmtokmerge`` of the same verb; see ``--help``."""

import sys

from mmtokmerge.commands.main import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
