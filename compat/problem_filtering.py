"""The published command of this name: see statewise/compat/problem_filtering.py."""

import sys

from statewise.compat.problem_filtering import main

sys.exit(main())
