"""Triton kernels of merging, and when they run: matching, groups, means, and unmerging.

What may stand here: Triton's kernels, a file for each step, the operators by which torch calls them
and the switch that says whether they run. What each step means stands in
:mod:`mmtokmerge.merging`, with torch's own form, which every kernel is tested against.
"""
