"""The arena: methods compete under equal conditions, and every cell of the table can be done again."""
