"""First-party methods, one file each: adding a method is adding a file."""
