"""Other projects' autoencoders, read into our classes."""
