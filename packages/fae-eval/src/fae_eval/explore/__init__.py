"""What `fae explore` shows: arrays in, arrays and pictures out. Only `page/` knows gradio."""
