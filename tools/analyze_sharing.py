"""Analyse token sharing (CTS): data sets, consistent predictions, routing, speed against mIoU."""

from __future__ import annotations

import sys
from argparse import Namespace

from mmtokmerge.engine.cli import run_tool

EXAMPLES = """\
examples:
  python tools/analyze_sharing.py statistics configs/cts/segmenter_vit-t_camvid_none.py --out OUT
  python tools/analyze_sharing.py consistency configs/cts/segmenter_vit-t_camvid_cts.py CTS.pth \\
      --policy work_dirs/policynet_camvid/iter_800.pth --out OUT
  python tools/analyze_sharing.py route --model NONE_CONFIG NONE.pth --model CTS_CONFIG CTS.pth \\
      --policy POLICYNET.pth --threshold 0.5 --alone --out OUT
  python tools/analyze_sharing.py tradeoff --model NONE_CONFIG NONE.pth \\
      --model CTS_CONFIG CTS.pth --policy POLICYNET.pth --num-shared 0.1 0.2 0.6 --out OUT

statistics counts the superpatches of each label map, at the size at which the test has its image,
that hold a single class (or ignored pixels alone). consistency gives all pixels of a superpatch
whose patches share a token the class that most of them have; it needs whole-image inference. route
counts on each image the superpatches that the first policy network scores above the threshold, S*,
and lets the model with the highest S below S* process it; where there is none, the one with the
least S. tradeoff tests all models on the same images: mIoU by the config's evaluator, tokens and
GFLOPs (1 MAC = 2 FLOPs, policy network included) as means over what the network is given,
throughput as the ratio of median times of policy, encoder, neck and head against the first model,
both timed in turn on each image. Finished measurements are kept in OUT/measured.json.
"""


def main() -> None:
    """Parse the command line and analyse."""
    args = parse_args()
    from mmtokmerge.analysis.sharing_command import analyze_sharing

    analyze_sharing(args)


def parse_args() -> Namespace:
    """The command line; see ``--help``."""
    from mmtokmerge.analysis.sharing_options import make_parser

    return make_parser(__doc__, EXAMPLES).parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
