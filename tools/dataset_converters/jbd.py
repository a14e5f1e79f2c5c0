"""Convert the Jumping Broadcast Dataset's tables to COCO keypoint files; see ``--help``."""

import sys

from mmtokmerge.commands.main import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
