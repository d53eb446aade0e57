"""The published command of this name: see statewise/compat/calc_acc_lcb.py."""

import sys

from statewise.compat.calc_acc_lcb import main

sys.exit(main())
