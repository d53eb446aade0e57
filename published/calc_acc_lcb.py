"""The published command of this name: see statewise/published/calc_acc_lcb.py."""

import sys

from statewise.published.calc_acc_lcb import main

sys.exit(main())
