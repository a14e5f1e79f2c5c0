# Table 10c, a random token of each group: the same run as Table 6's without denoising.
_base_ = "./table6_no-denoising.py"
