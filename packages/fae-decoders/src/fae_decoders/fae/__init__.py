"""FAE and its parts: feature decoder, pixel decoders, the encoder with both."""
