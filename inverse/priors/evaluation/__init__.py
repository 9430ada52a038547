"""The evaluation of a prior: precision, compilation, memory, tiles, several devices."""
