"""First-party methods, one file each. A new file here is a new method; nothing else has to change."""
