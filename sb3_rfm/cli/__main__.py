"""``python -m sb3_rfm.cli``: the command, where its script is not on the path."""

import sys

from sb3_rfm.cli.main import main

sys.exit(main())
