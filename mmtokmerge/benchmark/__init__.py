"""Speed of several models side by side, in one interleaved run.

The measuring of one model is ``measure``'s, quality is ``analysis``'s and ``evaluation``'s: here is
who takes part, in which turn, and the tables.
"""
