"""The published command of this name: see statewise/published/calc_acc_aime.py."""

import sys

from statewise.published.calc_acc_aime import main

sys.exit(main())
