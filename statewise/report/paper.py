"""The published results of "Scaling Reasoning without Attention" (arXiv 2505.22425), pass@1 in %.

For context only: none of these figures is measured by Statewise. They are the paper's general,
specialisation and ablation tables and what reviews of it quote; of the ablation table
only two cells could be recovered, and those from secondary sources.
"""

from __future__ import annotations

NOT_FOUND = "not found"  # the cell exists in the paper, its value could not be recovered
NOT_REPORTED = None  # the paper leaves the cell empty

URL = "https://arxiv.org/abs/2505.22425"

BENCHMARKS = (
    "MATH-500",
    "AIME24",
    "AIME25",
    "OlympiadBench",
    "HumanEval",
    "HumanEval+",
    "LiveCodeBench",
)

# Our names of those that are the same problems and the same tests.
COLUMNS = {
    "math500": "MATH-500",
    "aime2024": "AIME24",
    "aime2025": "AIME25",
    "olympiadbench": "OlympiadBench",
    "humaneval": "HumanEval",
    "humaneval_plus": "HumanEval+",
    "livecodebench_v5": "LiveCodeBench",
}

Cell = float | str | None

ROWS: tuple[tuple[str, tuple[Cell, ...]], ...] = (
    ("PromptCoT-Mamba-7B", (84.6, 35.2, 24.6, 50.7, 81.7, 75.0, 29.9)),
    ("Gemma3-27B", (89.0, 32.6, 24.0, 54.2, 86.0, 78.0, 26.9)),
    ("Gemma3-12B", (83.8, 22.9, 19.2, 49.9, 81.1, 73.2, 22.2)),
    ("Sky-T1-7B", (85.0, 19.2, 19.2, 49.2, 41.5, 37.2, 18.3)),
    ("S1.1-7B", (82.0, 19.2, 17.5, 43.1, 64.0, 56.7, 13.3)),
    ("Bespoke-Stratos-7B", (81.2, 18.3, 16.3, 45.0, 73.2, 68.3, 8.6)),
    ("Nemotron-H-8B", (77.6, None, None, None, 79.3, 74.4, None)),
    ("M1-3B", (81.7, 23.0, 22.0, 43.6, None, None, None)),
    ("PromptCoT-Mamba-Math-7B", (88.0, 42.9, 30.8, 52.1, 71.3, 66.5, 20.3)),
    ("Mamba-7B without PromptCoT phase", (NOT_FOUND, 11.7, *[NOT_FOUND] * 5)),
    ("Mamba-7B without OpenCodeReasoning", (*[NOT_FOUND] * 6, 13.6)),
)

# The paper's three tables, by the names of their rows.
TABLES: dict[str, tuple[str, ...]] = {
    "General": tuple(name for name, _ in ROWS[:8]),
    "Specialisation": ("PromptCoT-Mamba-7B", "PromptCoT-Mamba-Math-7B"),
    "Ablation": ("PromptCoT-Mamba-7B", *(name for name, _ in ROWS[9:])),
}

# Tokens per second at long generations over s1.1-7B, by GPU memory setting (the paper's Figure 2).
SPEEDUP_OVER_TRANSFORMER = {"24 GB": 3.66, "72 GB": 1.69}
