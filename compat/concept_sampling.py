"""The published command of this name: see statewise/compat/concept_sampling.py."""

import sys

from statewise.compat.concept_sampling import main

sys.exit(main())
