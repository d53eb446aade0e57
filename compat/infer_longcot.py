"""The published command of this name: see statewise/compat/infer_longcot.py."""

import sys

from statewise.compat.infer_longcot import main

sys.exit(main())
