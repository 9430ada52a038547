"""Weather fields: grids on the sphere, operators that observe them, readers of observations, CF NetCDF and maps."""
