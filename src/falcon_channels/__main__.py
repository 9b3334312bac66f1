"""``python -m falcon_channels``: runs the command without its script."""

import sys

from falcon_channels.cli import main

sys.exit(main())
