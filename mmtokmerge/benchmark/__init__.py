"""Speed of several models side by side, in one interleaved run; the measuring is ``measure``'s."""
