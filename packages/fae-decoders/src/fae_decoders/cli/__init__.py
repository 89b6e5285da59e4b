"""The commands `fae train autoencoder`, `fae train pixel` and `fae reconstruct`."""
