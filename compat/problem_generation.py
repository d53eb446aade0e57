"""The published command of this name: see statewise/compat/problem_generation.py."""

import sys

from statewise.compat.problem_generation import main

sys.exit(main())
