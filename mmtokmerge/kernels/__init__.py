"""Products, similarity and attention by the fastest exact kernel of the device, in plain torch.

A function here computes what its name says, on any device, whatever kernel does the work. It knows
tensors and, in :mod:`mmtokmerge.kernels.plain`, whether a module may be read instead of called; it
does not know tokens' groups or layers, and imports torch alone.
"""
