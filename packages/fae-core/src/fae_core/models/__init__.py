"""Models: found by name (sources), loaded (load), saved (pretrained, folder, card), and what is known of them besides."""
