"""Convert CamVid's 32-class colour release; see ``--help``."""

import sys

from mmtokmerge.commands.main import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
