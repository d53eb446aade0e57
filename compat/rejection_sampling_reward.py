"""The published command of this name: see statewise/compat/rejection_sampling_reward.py."""

import sys

from statewise.compat.rejection_sampling_reward import main

sys.exit(main())
