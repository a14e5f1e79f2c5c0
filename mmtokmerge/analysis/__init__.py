"""What trained models are measured for, a folder a question; what they share lies here.

``rates``: which rates, strides and options of MiT++ are best. ``thresholds``: ALGM's tau, by
calibration and by search. ``sharing``: what CTS shares and costs. ``similarity``: how alike tokens
of one class are.
"""
