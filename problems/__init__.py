"""First-party problems, one file each. A new file here is a new problem; nothing else has to change."""
