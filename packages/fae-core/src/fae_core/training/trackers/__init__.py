"""The trackers that fae-core knows, each an extra of the same name."""
