"""SegFormer's encoder by others, timed in the same run with the same weights."""
