"""What a person is shown and given: console, progress, tables, and files that are whole or not there.

Imports no mm* package and nothing of this one but its errors.
"""
