"""Training: phases of examples, packed into rows, through one loop that can be killed."""
