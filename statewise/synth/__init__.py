"""From concepts to training examples: every role is a `Sampler`, text in and text out."""
