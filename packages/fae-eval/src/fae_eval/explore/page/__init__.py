"""The page of `fae explore`: a thin layer of gradio over the functions beside this folder."""
