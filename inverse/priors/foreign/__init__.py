"""Networks of other projects, recognised by the names and shapes of their weights."""
