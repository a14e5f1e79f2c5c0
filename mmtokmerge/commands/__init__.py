"""The command line: one file a verb, its options and what it runs.

A verb's module has ``add_arguments(parser)`` and ``run(args)``, and its docstring is the first line
of its help; ``EXAMPLES`` ends it. :mod:`mmtokmerge.commands.main` finds it by its name: the console
script ``mmtokmerge VERB`` and the scripts in ``tools/`` are thin over it. To add a verb, add a file
and its line in :data:`mmtokmerge.commands.main.VERBS`. What several verbs share is in
:mod:`mmtokmerge.commands.options`; nothing below this folder imports it.
"""
