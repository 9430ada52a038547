"""What `inverse train*` and `fit-bc` need, and no solve does."""
