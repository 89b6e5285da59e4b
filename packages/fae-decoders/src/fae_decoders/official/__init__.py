"""Other projects' layouts of weights, as settings and names of ours; nothing here builds a model or reads a file."""
