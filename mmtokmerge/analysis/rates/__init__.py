"""Which rates, strides and options of MiT++ lose least at a speed: the search and its report."""
