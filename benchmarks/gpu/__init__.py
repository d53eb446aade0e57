"""Speed on a GPU, beside the limits of the card and beside peers: `python -m benchmarks.gpu`."""
