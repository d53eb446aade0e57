"""The published command of this name: see statewise/compat/calc_acc_aime.py."""

import sys

from statewise.compat.calc_acc_aime import main

sys.exit(main())
