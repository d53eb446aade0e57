"""What a model is worth: problems and samples in; verdicts, means and their errors out."""
