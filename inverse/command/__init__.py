"""What `inverse solve` and `inverse prior` do between their options and the library."""
