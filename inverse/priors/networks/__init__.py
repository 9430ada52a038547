"""Networks as priors: the U-Net, networks of other libraries, conversion and quantisation."""
