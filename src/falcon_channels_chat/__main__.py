"""``python -m falcon_channels_chat`` is ``falcon-channels chat``."""

import sys

from falcon_channels_chat.serving import main

if __name__ == '__main__':
    sys.exit(main())
