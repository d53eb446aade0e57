"""What Statewise costs beside its peers, measured. docs/benchmarks.md says how."""
