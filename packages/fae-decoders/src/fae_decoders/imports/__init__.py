"""Other people's autoencoders, read into our classes."""
