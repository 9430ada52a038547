"""First-party problems: a module or package each.

A new file in this folder adds a problem; no other file has to change.
"""
