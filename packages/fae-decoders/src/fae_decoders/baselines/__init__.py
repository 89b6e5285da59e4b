"""What FAE is compared with: a convolutional variational autoencoder."""
