"""What a person is shown and given: console, progress, tables, and files written whole.

Imports no mm* package and nothing of this one but its errors.
"""
