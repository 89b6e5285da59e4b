"""What is measured as a whole: generation, reconstruction, convergence, probes, texts and images, comparisons."""
