"""Models: found by name (sources, bundles), loaded (load), saved (pretrained, folder, card), identified (identity)."""
