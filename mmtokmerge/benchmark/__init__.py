"""Timing of configs against the models that mmseg ships, interleaved in one run."""
