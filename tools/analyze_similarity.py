"""Compare tokens of the same class and of different classes (ALGM, figure 2); see ``--help``."""

import sys

from mmtokmerge.commands.main import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
