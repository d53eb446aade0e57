"""The published command of this name: see statewise/compat/train.py."""

import sys

from statewise.compat.train import main

sys.exit(main())
