"""The published command of this name: see statewise/published/infer_longcot.py."""

import sys

from statewise.published.infer_longcot import main

sys.exit(main())
