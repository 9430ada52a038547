"""How evaluations of a prior are carried out: precision, compilation, memory, tiles, several devices."""
