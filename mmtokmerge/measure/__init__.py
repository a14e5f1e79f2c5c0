"""Measuring one model: time, operations, memory, quality on images, and the machine it was done on.

What is measured for which question lives above, in ``benchmark`` and ``analysis``; nothing here
knows another model to compare with, or prints.
"""
