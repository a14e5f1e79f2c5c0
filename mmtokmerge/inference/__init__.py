"""Predicting own pictures and videos: what is read, how large ones are cut, what is drawn.

Built on ``engine`` and ``visualization``; the verb ``predict`` is thin over it. Pictures
with labels are a test's, and not read here.
"""
