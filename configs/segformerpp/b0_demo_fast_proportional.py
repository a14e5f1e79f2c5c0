# Merged keys weigh as much as the keys that they stand for; the paper's presets leave this off.
_base_ = "./b0_demo_fast.py"
model = dict(backbone=dict(proportional=True))
