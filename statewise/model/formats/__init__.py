"""Foreign layouts of a checkpoint: what each calls sizes and tensors, read and written by stream.

Everything is brought to one vocabulary, that of `Mamba2Config` and of `Mamba2LM`'s state dict
(which is Hugging Face's), and written from there.
"""
