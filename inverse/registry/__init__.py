"""The registry of plug-ins: hooks, discovery, options, commands and versions."""
