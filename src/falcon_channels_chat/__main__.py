"""Make ``python -m falcon_channels_chat`` do what ``falcon-channels chat`` does."""

import sys

from falcon_channels_chat.serving import main

if __name__ == '__main__':
    sys.exit(main())
