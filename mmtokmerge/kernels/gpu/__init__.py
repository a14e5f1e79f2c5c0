"""Triton kernels, and when they run: matching, groups, means and unmerging; norms and convolutions.

What may stand here: Triton's kernels, a file for each step, the operators by which torch calls them
and the switch that says whether they run. What each step of merging means stands in
:mod:`mmtokmerge.merging`, with torch's own form, which every kernel is tested against; those of
layers are torch's layer norm, and its depthwise convolution and GELU.
"""
