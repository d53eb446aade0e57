"""Mathematical answers: LaTeX read as trees, and trees compared; nothing is executed."""
